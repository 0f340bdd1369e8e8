//! cargo-fuzz, and what it builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::toolchain::{pins, tool};
use crate::workspace::Workspace;
use crate::{environment, process};

/// Builds a fuzz target. Returns the program.
pub(super) fn build(workspace: &Workspace, target: &str, scratch: &Path) -> Result<PathBuf> {
    let cargo_fuzz = tool::ensure(workspace, "cargo-fuzz", pins::CARGO_FUZZ, "about a minute")?;
    let host = host()?;
    process::announce(&format!("Building the fuzz target {target} (some minutes, the first time)"));
    let mut command = Command::new(cargo_fuzz);
    environment::without_host_build(&mut command).current_dir(&workspace.root);
    command.env("GUARD_BPF_OBJECT", workspace.bpf_object());
    // No sanitizer: there is no unsafe code to watch, and without one a stable compiler suffices.
    command.args(["fuzz", "build", target, "--sanitizer", "none", "--target", &host]);
    command.arg("--fuzz-dir").arg(workspace.fuzz_crate()).arg("--target-dir").arg(scratch);
    process::run(&mut command)?;
    Ok(scratch.join(host).join("release").join(target))
}

/// The target that this machine's compiler builds for, which names a directory.
fn host() -> Result<String> {
    let verbose = process::answer(Command::new("rustc").arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not name its host.")
}
