//! `cargo xtask verify`: what the kernel's verifier says of the program, against the budget.

use std::ffi::OsString;

use anyhow::Result;

use super::build;
use crate::consent::Consent;
use crate::workspace::{Profile, Workspace};
use crate::{privilege, process};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cargo xtask verify

The budget is guard-ebpf/budget.toml.")]
pub(crate) struct Verify {
    #[command(flatten)]
    consent: Consent,
    /// Passed on to guard-verify
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Verify {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        build::all(&workspace, Profile::Release, self.consent)?;
        report(&workspace, &self.arguments)
    }
}

/// Runs guard-verify, which is built already.
pub(crate) fn report(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let mut verify = privilege::as_root(workspace.binary(Profile::Release, "guard-verify"))?;
    process::run(verify.args(arguments).current_dir(&workspace.root))
}
