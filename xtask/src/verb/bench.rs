//! `cargo xtask bench`: what guard costs on this machine.

use std::ffi::OsString;

use anyhow::Result;

use super::build;
use crate::consent::Consent;
use crate::workspace::{Profile, Workspace};
use crate::{packages, privilege, process};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench -- flood                     one part of it
  cargo xtask bench -- frames --program 42       beside guard, an XDP program that is loaded, by the kernel's number of it
  cargo xtask bench -- --help                    what can be measured otherwise

Floods only networks of its own. Ratios hold on a machine that others use too, nanoseconds do not; docs/performance.md has the figures of a run.")]
pub(crate) struct Bench {
    #[command(flatten)]
    consent: Consent,
    /// Passed on to guard-bench
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        packages::ensure_tools(self.consent)?;
        packages::ensure(&packages::BENCH_TOOLS, "The comparison needs", self.consent)?;
        build::all(&workspace, Profile::Release, self.consent)?;
        let mut bench = privilege::as_root(workspace.binary(Profile::Release, "guard-bench"))?;
        process::run(bench.args(self.arguments).current_dir(&workspace.root))
    }
}
