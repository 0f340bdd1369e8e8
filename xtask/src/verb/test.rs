//! `cargo xtask test`: everything that must hold before a change goes in.

use std::process::Command;

use anyhow::{Context, Result};

use super::{build, verify, vm};
use crate::consent::Consent;
use crate::steps::Steps;
use crate::workspace::{Profile, Workspace};
use crate::{bpf, packages, preflight, privilege, process, supply, toolchain};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cargo xtask test

Builds as you and runs only the tests that need the kernel as root, through sudo where you are not root.")]
pub(crate) struct Test {
    #[command(flatten)]
    consent: Consent,
}

impl Test {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let mut steps = Steps::default();
        let result = run(&workspace, &mut steps, self.consent);
        eprint!("\n{steps}");
        result
    }
}

fn run(workspace: &Workspace, steps: &mut Steps, consent: Consent) -> Result<()> {
    steps.run("system packages", || packages::ensure_tools(consent))?;
    steps.run("preflight", preflight::check)?;
    steps.run("format", || format(workspace))?;
    steps.run("licences and sources", || supply::check(workspace))?;
    let toolchain = steps.run("eBPF toolchain", || toolchain::ensure(workspace, consent))?;
    steps.run("eBPF build", || bpf::build(workspace, &toolchain))?;
    steps.run("eBPF clippy", || {
        let driver = toolchain::ensure_linter(&toolchain.compiler, consent)?;
        bpf::clippy(workspace, &toolchain, &driver)
    })?;
    steps.run("clippy", || process::run(workspace.cargo().args(CLIPPY)))?;
    steps.run("clippy of the fuzz targets", || process::run(&mut fuzz_targets(workspace)))?;
    steps.run("documentation", || {
        process::run(
            workspace.cargo().args(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-Dwarnings"),
        )
    })?;
    steps.run("unit tests", || process::run(workspace.cargo().args(UNIT_TESTS)))?;
    steps.run("release build", || build::programs(workspace, Profile::Release))?;
    steps.run("verifier budget", || verify::report(workspace, &[]))?;
    steps.run("kernel tests", || kernel_tests(workspace))?;
    // The oldest of Debian's kernels that guard runs on.
    steps.run("Linux 6.1", || vm::run(workspace, &["6.1".to_owned()], false, consent))
}

const CLIPPY: [&str; 6] = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];

/// All but guard-tests, whose tests need root.
const UNIT_TESTS: [&str; 5] = ["test", "--workspace", "--no-fail-fast", "--exclude", "guard-tests"];

fn format(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    for outside in [workspace.ebpf_crate(), workspace.fuzz_crate()] {
        process::run(workspace.cargo().args(["fmt", "--check"]).current_dir(outside))?;
    }
    Ok(())
}

/// Lints the fuzz targets: without libFuzzer that takes no C++ compiler, and next to nothing after the workspace's own.
fn fuzz_targets(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["clippy", "--no-default-features", "--target-dir"]).arg(&workspace.target);
    cargo.args(["--", "-D", "warnings"]).current_dir(workspace.fuzz_crate());
    cargo
}

/// Builds the tests as the user; the test programs alone run as root.
fn kernel_tests(workspace: &Workspace) -> Result<()> {
    let guard = workspace.binary(Profile::Release, "guard");
    let guard =
        guard.to_str().context("The path of the target directory is not text: set CARGO_TARGET_DIR.")?;
    let variables = [("GUARD_BIN", guard)];
    let mut cargo = workspace.cargo();
    // One failed test must not hide what the others say: a run takes minutes.
    cargo.args(["test", "--package", "guard-tests", "--no-fail-fast"]).envs(variables);
    add_runner(&mut cargo, &privilege::prefix(&variables)?);
    process::run(&mut cargo)
}

fn add_runner(cargo: &mut Command, words: &[String]) {
    if !words.is_empty() {
        // How Rust quotes these words is how TOML does.
        cargo.arg("--config").arg(format!("target.'cfg(all())'.runner={words:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn root_runs_the_tests_as_they_are() {
        let mut cargo = Command::new("cargo");
        add_runner(&mut cargo, &[]);
        assert!(arguments(&cargo).is_empty());
    }

    #[test]
    fn others_run_the_tests_through_sudo_word_by_word() {
        let mut cargo = Command::new("cargo");
        add_runner(&mut cargo, &["sudo", "env", "GUARD_BIN=/a b/guard"].map(str::to_owned));
        let expected = r#"target.'cfg(all())'.runner=["sudo", "env", "GUARD_BIN=/a b/guard"]"#;
        assert_eq!(arguments(&cargo), ["--config", expected]);
    }
}
