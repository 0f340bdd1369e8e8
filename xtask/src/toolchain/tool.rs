//! Programs of cargo's: the pinned version, built into the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::version::Version;
use crate::workspace::Workspace;
use crate::{environment, process};

/// The program `name` of this version; `time` is how long a build of it takes, for people.
pub(crate) fn ensure(workspace: &Workspace, name: &str, version: &str, time: &str) -> Result<PathBuf> {
    let root = workspace.target.join("tools").join(format!("{name}-{version}"));
    let path = root.join("bin").join(name);
    if runs(&path, name, version) {
        return Ok(path);
    }
    let build = root.join("build");
    process::announce(&format!("Building {name} {version} ({time}, once)"));
    let mut cargo = Command::new(&workspace.cargo);
    environment::without_host_build(&mut cargo).current_dir(&workspace.target);
    cargo.args(["install", name, "--locked", "--force", "--version"]);
    cargo.arg(format!("={version}")).arg("--root").arg(&root).arg("--target-dir").arg(&build);
    process::run(&mut cargo)
        .with_context(|| format!("Could not build {name}: see the compiler's words above."))?;
    if !runs(&path, name, version) {
        bail!(
            "{name} was built, but {} does not run: remove {} and try again.",
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

fn runs(path: &Path, name: &str, version: &str) -> bool {
    let ask = |arguments: &[&str]| process::answer(Command::new(path).args(arguments));
    // Some subcommands of cargo insist on the name that cargo passes to them.
    let answer = ask(&["--version"]).or_else(|_| ask(&[name.trim_start_matches("cargo-"), "--version"]));
    let found = answer.ok().and_then(|answer| Version::of_tool(name, &answer));
    found.is_some_and(|found| found.to_string() == version)
}
