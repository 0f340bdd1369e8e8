//! Where a policy comes from: a file, flags, or both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Checked, Flags, apply_flags, from_flags, parse_on};
use crate::local_ports::LocalPorts;
use crate::plain::plain;

/// What a policy is read from, as often as it is read. Flags win over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub file: Option<PathBuf>,
    pub flags: Flags,
}

/// A policy that was read and is right.
#[derive(Clone, Debug)]
pub struct Source {
    pub checked: Checked,
    pub file: Option<PathBuf>,
    /// The text of the file, for messages with its lines.
    pub text: String,
    /// Whether the interfaces are those of flags, not of the file.
    pub flags_name_interfaces: bool,
}

impl Origin {
    pub fn of_file(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), flags: Flags::default() }
    }

    /// # Errors
    /// When the file cannot be read; with a [`super::Report`] when the policy is not right.
    pub fn read(&self) -> Result<Source> {
        let Some(file) = &self.file else {
            let checked = from_flags(&LocalPorts::read(), &self.flags)?;
            return Ok(Source { checked, file: None, text: String::new(), flags_name_interfaces: true });
        };
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read the policy {}", name_of(file)))?;
        self.parse(text, file)
    }

    /// Takes `text` for the content of `file`.
    ///
    /// # Errors
    /// With a [`super::Report`] when the policy is not right.
    pub fn parse(&self, text: String, file: &Path) -> Result<Source> {
        let local = LocalPorts::read();
        let checked = apply_flags(&local, parse_on(&local, &text, &name_of(file))?, &self.flags)?;
        let flags_name_interfaces = !self.flags.interfaces.is_empty();
        Ok(Source { checked, file: Some(file.into()), text, flags_name_interfaces })
    }
}

/// The name of a file for messages: one line.
fn name_of(file: &Path) -> String {
    plain(&file.display().to_string()).into_owned()
}
