//! Where a policy comes from: a file, flags, or both.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use crate::config::{Flags, Origin};

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
    /// Start before the interfaces are there, and guard them as they come
    #[arg(long)]
    allow_missing: bool,
    /// Listen here for /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
}

impl PolicySource {
    /// # Errors
    /// When neither a file nor flags say what to guard.
    pub(super) fn origin(&self) -> Result<Origin> {
        Ok(Origin { file: self.file()?, flags: self.flags() })
    }

    /// The default file, whether it is there or not.
    pub(super) fn of_default_file(&self) -> Origin {
        Origin { file: Some(default_file()), flags: self.flags() }
    }

    fn flags(&self) -> Flags {
        Flags {
            interfaces: self.interface.clone(),
            ports: self.port.clone(),
            allow: self.allow.clone(),
            monitor: self.monitor,
            allow_missing: self.allow_missing,
            metrics: self.metrics.clone(),
        }
    }

    /// The file that is named, or the default one if it exists. Without either, flags must be enough.
    fn file(&self) -> Result<Option<PathBuf>> {
        if let Some(file) = &self.config {
            return Ok(Some(file.clone()));
        }
        // Where the kernel does not tell, reading it says why.
        if Path::new(DEFAULT).try_exists().unwrap_or(true) {
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

/// The default policy file.
pub(super) fn default_file() -> PathBuf {
    DEFAULT.into()
}
