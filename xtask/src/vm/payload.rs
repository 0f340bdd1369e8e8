//! Guard and its tests as programs that need nothing of the system that they run on.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::process;
use crate::workspace::Workspace;

/// The tests that need a kernel and nothing else: no network, no other program.
pub(crate) const TESTS: [&str; 4] =
    ["kernel_named_frames", "kernel_differential", "kernel_generations", "kernel_limiter"];

/// A program by the name that it has in the machine.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Builds guard and the tests; the eBPF program must be there.
pub(crate) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    process::announce("Building guard and its tests as static programs");
    let mut programs = run(workspace, &["build", "--package", "guard-userspace", "--bin", "guard"])?;
    let mut tests = vec!["test", "--no-run", "--package", "guard-tests"];
    tests.extend(TESTS.iter().flat_map(|test| ["--test", test]));
    programs.extend(run(workspace, &tests)?);
    for wanted in TESTS.iter().chain(&["guard"]) {
        if !programs.iter().any(|program| program.name == *wanted) {
            bail!("cargo has not built {wanted}.");
        }
    }
    programs.retain(|program| program.name == "guard" || TESTS.contains(&program.name.as_str()));
    Ok(programs)
}

fn run(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<Program>> {
    let mut cargo = workspace.cargo();
    // For a named target, so that flags are not those of build scripts; beside the usual builds, so that they stay.
    cargo.args(arguments).args([
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
        "--target-dir",
    ]);
    cargo.arg(workspace.target.join("vm/build"));
    cargo.env("GUARD_BPF_OBJECT", workspace.bpf_object());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", ["-Ctarget-feature=+crt-static", "-Cstrip=debuginfo"].join("\x1f"));
    let messages = output(&mut cargo)?;
    let artifact = |message: Message| {
        let Message::CompilerArtifact(artifact) = message else { return None };
        Some(Program { name: artifact.target.name, path: artifact.executable?.into_std_path_buf() })
    };
    let messages = Message::parse_stream(messages.as_slice());
    Ok(messages.filter_map(Result::ok).filter_map(artifact).collect())
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a build says on stdout, with its diagnostics shown.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("Could not start cargo.")?;
    if !output.status.success() {
        bail!("The static build failed: {}. Its own output is above.", output.status);
    }
    Ok(output.stdout)
}
