//! The programs that run inside, and how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use super::kernels::Expects;
use crate::process;
use crate::workspace::{Profile, Workspace};

/// Optimised, because the virtual machine is slow.
const PROFILE: Profile = Profile::Release;

/// The tests, and what is left out of them: real traffic once is enough for a kernel.
const TESTS: [(&str, &[&str]); 6] = [
    ("kernel_named_frames", &[]),
    ("kernel_limiter", &[]),
    ("kernel_differential", &[]),
    ("kernel_generations", &[]),
    ("traffic_access", &["--skip=generic_mode", "--skip=monitor_mode"]),
    // Many kernels for containers have neither of these devices.
    ("agent_stacked", &["a_vlan_is", "of_a_bond"]),
];

/// What the tests of traffic run.
pub(crate) const TOOLS: [&str; 5] = ["curl", "ethtool", "ip", "nsenter", "ping"];

/// Frames of the differential test, instead of a million.
const FRAMES: &str = "30000";

/// One command inside, which must end with status 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) words: Vec<String>,
}

/// What was built for the virtual machine. Each file has inside the path that it has here.
#[derive(Debug)]
pub(crate) struct Programs {
    guard: PathBuf,
    verify: PathBuf,
    instructions: PathBuf,
    /// Which `traffic_access` starts.
    server: PathBuf,
    budget: PathBuf,
    tests: BTreeMap<&'static str, PathBuf>,
}

/// Builds the tests; the other programs must be there.
pub(crate) fn build(workspace: &Workspace) -> Result<Programs> {
    process::announce("Building the tests for the virtual machine");
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-run", "--package", "guard-tests", "--message-format=json-render-diagnostics"]);
    cargo.args(PROFILE.arguments()).args(TESTS.iter().flat_map(|(name, _)| ["--test", *name]));
    let output = cargo.stderr(Stdio::inherit()).output().context("Could not start cargo.")?;
    if !output.status.success() {
        bail!("The tests do not build: see the compiler's words above.");
    }
    let mut built = BTreeMap::new();
    for message in Message::parse_stream(output.stdout.as_slice()) {
        if let Message::CompilerArtifact(artifact) = message.context("Could not read what cargo says.")?
            && let Some(executable) = artifact.executable
        {
            built.insert(artifact.target.name, executable.into_std_path_buf());
        }
    }
    let mut test = |(name, _): (&'static str, _)| {
        let program = built.remove(name).with_context(|| format!("cargo has not built the test {name}."))?;
        Ok((name, program))
    };
    Ok(Programs {
        guard: workspace.binary(PROFILE, "guard"),
        verify: workspace.binary(PROFILE, "guard-verify"),
        instructions: workspace.binary(PROFILE, "guard-instructions"),
        server: workspace.binary(PROFILE, "guard-streaming-server"),
        budget: workspace.ebpf_crate().join("budget.toml"),
        tests: TESTS.into_iter().map(&mut test).collect::<Result<_>>()?,
    })
}

impl Programs {
    /// All that were built.
    pub(crate) fn executables(&self) -> impl Iterator<Item = &Path> {
        let own = [&self.guard, &self.verify, &self.instructions, &self.server];
        own.into_iter().chain(self.tests.values()).map(PathBuf::as_path)
    }

    /// What they read.
    pub(crate) fn data(&self) -> &Path {
        &self.budget
    }

    /// Variables that the tests read.
    pub(crate) fn environment(&self) -> Result<[(&'static str, String); 3]> {
        Ok([
            ("GUARD_BIN", text(&self.guard)?),
            ("GUARD_TEST_FRAMES", FRAMES.into()),
            ("GUARD_TEST_DEVICES", "all".into()),
        ])
    }

    pub(crate) fn steps(&self, expects: Expects) -> Result<Vec<Step>> {
        match expects {
            Expects::Refusal => {
                let mut words = vec!["refuses".to_owned(), text(&self.guard)?];
                words.extend(["run", "-i", "lo", "-p", "8000", "-a", "10.0.0.0/8"].map(str::to_owned));
                Ok(vec![Step { name: "refusal", words }])
            }
            Expects::Work => {
                let words = vec![text(&self.verify)?, "--budget".to_owned(), text(&self.budget)?];
                let mut steps = vec![Step { name: "loading", words }];
                for (name, arguments) in TESTS {
                    let program =
                        self.tests.get(name).with_context(|| format!("There is no test {name}."))?;
                    let mut words = vec![text(program)?, "--test-threads=1".to_owned()];
                    words.extend(arguments.iter().map(|&argument| argument.to_owned()));
                    steps.push(Step { name, words });
                }
                Ok(steps)
            }
        }
    }

    /// For a machine whose clock goes by instructions.
    pub(crate) fn counting_steps(&self) -> Result<Vec<Step>> {
        let words = vec![text(&self.instructions)?, "--budget".to_owned(), text(&self.budget)?];
        Ok(vec![Step { name: "instructions", words }])
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("The path of the target directory is not text.")
}
