//! `cargo xtask build`: the eBPF program, then the programs that embed it.

use anyhow::Result;

use crate::consent::Consent;
use crate::workspace::{Profile, Workspace};
use crate::{bpf, process, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build              a debug build, quick to repeat
  cargo xtask build --release    target/release/guard, as it is installed

Environment:
  GUARD_BPF_RUSTC     the rustc that compiles the eBPF program
  GUARD_BPF_LINKER    the bpf-linker that links it")]
pub(crate) struct Build {
    /// Optimise the programs for the host (the eBPF program always is)
    #[arg(long, short)]
    release: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Build {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let profile = if self.release { Profile::Release } else { Profile::Debug };
        all(&workspace, profile, self.consent)?;
        process::announce(&format!("Built {}", workspace.binary(profile, "guard").display()));
        Ok(())
    }
}

/// Sets up what is missing and builds everything.
pub(crate) fn all(workspace: &Workspace, profile: Profile, consent: Consent) -> Result<()> {
    let toolchain = toolchain::ensure(workspace, consent)?;
    bpf::build(workspace, &toolchain)?;
    programs(workspace, profile)
}

/// Builds guard, the demo, the measurements and the verifier's report; the eBPF program must be there.
pub(crate) fn programs(workspace: &Workspace, profile: Profile) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", "guard-userspace", "--package", "guard-tests"]);
    process::run(cargo.args(profile.arguments()))
}

/// Builds guard and what plays the demo, without what only tests and measurements need.
pub(super) fn demo(workspace: &Workspace, profile: Profile) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "build",
        "--package",
        "guard-userspace",
        "--package",
        "guard-tests",
        "--no-default-features",
    ]);
    cargo.args(["--bin", "guard", "--bin", "guard-demo", "--bin", "guard-streaming-server"]);
    process::run(cargo.args(profile.arguments()))
}
