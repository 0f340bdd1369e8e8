//! cargo-fuzz: the pinned version, built into the target directory, and what it builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::pins;
use crate::toolchain::version::Version;
use crate::workspace::Workspace;
use crate::{environment, process};

/// Builds a fuzz target. Returns the program.
pub(super) fn build(workspace: &Workspace, target: &str, scratch: &Path) -> Result<PathBuf> {
    let cargo_fuzz = ensure(workspace)?;
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

fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("tools").join(format!("cargo-fuzz-{}", pins::CARGO_FUZZ));
    let path = root.join("bin/cargo-fuzz");
    if runs(&path) {
        return Ok(path);
    }
    let build = root.join("build");
    process::announce(&format!("Building cargo-fuzz {} (about a minute, once)", pins::CARGO_FUZZ));
    let mut cargo = Command::new(&workspace.cargo);
    environment::without_host_build(&mut cargo).current_dir(&workspace.target);
    cargo.args(["install", "cargo-fuzz", "--locked", "--force", "--version"]);
    cargo.arg(format!("={}", pins::CARGO_FUZZ)).arg("--root").arg(&root).arg("--target-dir").arg(&build);
    process::run(&mut cargo).context("Could not build cargo-fuzz: see the compiler's words above.")?;
    if !runs(&path) {
        bail!(
            "cargo-fuzz was built, but {} does not run: remove {} and try again.",
            path.display(),
            root.display()
        );
    }
    // Nothing needs it any more; a failure to remove it harms nothing.
    if let Err(error) = std::fs::remove_dir_all(&build) {
        process::announce(&format!("Could not remove {}: {error}", build.display()));
    }
    Ok(path)
}

fn runs(path: &Path) -> bool {
    let answer = process::answer(Command::new(path).arg("--version"));
    let version = answer.ok().and_then(|answer| Version::of_tool("cargo-fuzz", &answer));
    version.is_some_and(|version| version.to_string() == pins::CARGO_FUZZ)
}

/// The target that this machine's compiler builds for, which names a directory.
fn host() -> Result<String> {
    let verbose = process::answer(Command::new("rustc").arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not name its host.")
}
