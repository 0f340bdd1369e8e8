//! `cargo xtask demo`: the main job, shown on a network made for it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use super::build;
use crate::consent::Consent;
use crate::steps::Steps;
use crate::workspace::{Profile, Workspace};
use crate::{bpf, packages, privilege, process, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --server-command 'vllm serve MODEL --host :: --port 8000'
  cargo xtask demo -- --help     what the demo itself understands

Everything happens in network namespaces of its own and is removed at the end.")]
pub(crate) struct Demo {
    /// Start this on port 8000 instead of the small streaming server
    #[arg(long, value_name = "CMD")]
    server_command: Option<OsString>,
    #[command(flatten)]
    consent: Consent,
    /// Passed on to the demo
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Demo {
    /// Does not come back when the demo starts: it takes the place of this process, so that Ctrl-C
    /// and the exit code are its own, and the shell waits until it has cleaned up.
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        prepare(&workspace, self.consent)?;
        let program = workspace.binary(PROFILE, "guard-demo");
        let mut demo = privilege::as_root(&program)?;
        demo.arg("--guard").arg(workspace.binary(PROFILE, "guard"));
        if let Some(command) = self.server_command {
            demo.arg("--server-command").arg(command);
        }
        process::announce("Starting the demo");
        let error = demo.args(self.arguments).exec();
        Err(error).with_context(|| format!("Could not start the demo, {}.", program.display()))
    }
}

/// What is fast must run in the kernel, and is optimised in any case: for the rest, a build that is ready sooner is worth more here.
const PROFILE: Profile = Profile::Debug;

/// Sets up and builds what the demo needs, and nothing else.
fn prepare(workspace: &Workspace, consent: Consent) -> Result<()> {
    process::announce(
        "Four steps to the demo: system packages, eBPF toolchain, eBPF build, guard and the demo; minutes the first time, seconds after that",
    );
    let mut steps = Steps::default();
    steps.run("system packages", || packages::ensure(&packages::DEMO_TOOLS, "The demo needs", consent))?;
    let toolchain = steps.run("eBPF toolchain", || toolchain::ensure(workspace, consent))?;
    steps.run("eBPF build", || bpf::build(workspace, &toolchain))?;
    steps.run("guard and the demo", || build::demo(workspace, PROFILE))?;
    eprint!("\n{steps}");
    Ok(())
}
