//! Where a policy comes from: a file, flags, or both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::config::{self, Checked, Flags};

const DEFAULT: &str = "/etc/guard/guard.toml";

/// The policy, from a file and from flags. Flags win over the file.
#[derive(Args, Clone, Debug)]
pub(super) struct PolicySource {
    /// Policy file [default: /etc/guard/guard.toml, where it exists]
    #[arg(long, short, env = "GUARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Interface to guard: a name, a pattern, or "default-route" (repeatable)
    #[arg(long, short, value_name = "IF")]
    interface: Vec<String>,
    /// Port to guard, or a range such as 8100-8103 (repeatable)
    #[arg(long, short, value_name = "PORT")]
    port: Vec<String>,
    /// Prefix that may reach the ports of --port; all others are dropped (repeatable)
    #[arg(long, short, value_name = "CIDR")]
    allow: Vec<String>,
    /// Count what would be dropped, and drop nothing
    #[arg(long)]
    monitor: bool,
    /// Listen here for /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
}

/// A policy that was read and is right.
pub(super) struct Source {
    pub(super) checked: Checked,
    pub(super) file: Option<PathBuf>,
    /// The text of the file, for messages with its lines.
    pub(super) text: String,
}

impl PolicySource {
    pub(super) fn read(&self) -> Result<Source> {
        let flags = self.flags();
        let Some(file) = self.file()? else {
            return Ok(Source { checked: config::from_flags(&flags)?, file: None, text: String::new() });
        };
        let mut source = read_file(&file)?;
        source.checked = config::apply_flags(source.checked, &flags)?;
        Ok(source)
    }

    /// Whether the interfaces are those of flags, not of a file.
    pub(super) const fn names_interfaces(&self) -> bool {
        !self.interface.is_empty()
    }

    fn flags(&self) -> Flags {
        Flags {
            interfaces: self.interface.clone(),
            ports: self.port.clone(),
            allow: self.allow.clone(),
            monitor: self.monitor,
            metrics: self.metrics.clone(),
        }
    }

    /// The file that is named, or the default one if it exists. Without either, flags must be enough.
    fn file(&self) -> Result<Option<PathBuf>> {
        if let Some(file) = &self.config {
            return Ok(Some(file.clone()));
        }
        if Path::new(DEFAULT).exists() {
            return Ok(Some(DEFAULT.into()));
        }
        if self.interface.is_empty() && self.port.is_empty() && self.allow.is_empty() {
            bail!(
                "there is no policy: {DEFAULT} does not exist; write one (`guard check FILE` checks it), or say what to guard: \
                 guard run --interface eth0 --port 8000 --allow 10.0.0.0/8"
            );
        }
        Ok(None)
    }
}

/// Reads and checks a policy file.
pub(super) fn read_file(file: &Path) -> Result<Source> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read the policy {}", file.display()))?;
    let checked = config::parse(&text, &file.display().to_string())?;
    Ok(Source { checked, file: Some(file.into()), text })
}

/// The default policy file.
pub(super) fn default_file() -> PathBuf {
    DEFAULT.into()
}
