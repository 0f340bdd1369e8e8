//! libFuzzer: building a target with cargo-fuzz, and running it.

mod cargo_fuzz;
mod corpus;
mod progress;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Seconds that one input may take.
const TIMEOUT: u32 = 10;

/// What is fuzzed; each is a program in `tests/fuzz/targets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// The decision: policies, blocks, connections and frames
    Decide,
    /// The reader of policies
    Policy,
    /// The reader of the control socket
    Control,
    /// The reader of the port of metrics
    Metrics,
}

impl Target {
    pub(crate) const ALL: [Self; 4] = [Self::Decide, Self::Policy, Self::Control, Self::Metrics];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Policy => "policy",
            Self::Control => "control",
            Self::Metrics => "metrics",
        }
    }

    /// Longer inputs are seldom worth the time they take.
    const fn longest(self) -> u32 {
        match self {
            Self::Decide | Self::Control => 4096,
            Self::Metrics => 1024,
            Self::Policy => 8192,
        }
    }
}

/// A target that is built.
#[derive(Debug)]
pub(crate) struct Fuzzer {
    target: Target,
    program: PathBuf,
    /// Words of the format, where it is text.
    dictionary: Option<PathBuf>,
    /// The committed corpus.
    corpus: PathBuf,
    /// Where everything else lies, which is never committed.
    scratch: PathBuf,
}

impl Fuzzer {
    /// Builds a target, and cargo-fuzz and the seeds where they are not there; the eBPF program must be.
    pub(crate) fn build(workspace: &Workspace, target: Target) -> Result<Self> {
        let scratch = workspace.target.join("fuzz");
        let source = workspace.fuzz_crate();
        let fuzzer = Self {
            target,
            program: cargo_fuzz::build(workspace, target.name(), &scratch)?,
            dictionary: Some(source.join(target.name()).with_extension("dict")).filter(|file| file.is_file()),
            corpus: source.join("corpus").join(target.name()),
            scratch,
        };
        for directory in [&fuzzer.corpus, &fuzzer.found(), &fuzzer.crashes()] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("Could not create {}.", directory.display()))?;
        }
        let mut seeds = workspace.cargo();
        seeds.args(["run", "--quiet", "--package", "guard-proof", "--bin", "guard-seeds", "--"]);
        process::run(seeds.arg(fuzzer.scratch.join("seeds")))?;
        Ok(fuzzer)
    }

    /// Looks for inputs that break a property.
    pub(crate) fn run(&self, seconds: u64) -> Result<()> {
        let name = self.target.name();
        process::announce(&format!("Fuzzing {name} for {seconds} s"));
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).args([&self.found(), &self.corpus, &self.seeds()]);
        let before = files(&self.crashes())?;
        let status = progress::follow(&mut command, name)?;
        let mut crashes = files(&self.crashes())?;
        crashes.retain(|file| !before.contains(file));
        let Some(crash) = crashes.first() else {
            if status.success() {
                return Ok(());
            }
            bail!("The fuzzer of {name} failed: {status}. Its own output is above.");
        };
        bail!(
            "{name}: an input breaks a property, see above. Replay it:\n\n    cargo xtask fuzz {name} --replay \
             {crash}\n\nOnce it is mended, put the input into {corpus} under a name that tells what it shows: \
             `cargo xtask test` replays it from then on.",
            crash = crash.display(),
            corpus = self.corpus.display(),
        )
    }

    /// One input, once.
    pub(crate) fn replay(&self, input: &Path) -> Result<()> {
        if !input.is_file() {
            bail!("There is no file {}.", input.display());
        }
        process::run(self.command().arg(input))
    }

    /// Puts what was found into the committed corpus: the smallest inputs that reach all that is reached.
    pub(crate) fn minimise(&self) -> Result<()> {
        let name = self.target.name();
        let merged = self.scratch.join("merged").join(name);
        corpus::clear(&merged)?;
        let mut command = self.command();
        // Which code is reached, not how often: that would keep thousands.
        command.args(["-merge=1", "-use_counters=0"]);
        command.args([&merged, &self.corpus, &self.found(), &self.seeds()]);
        progress::follow(&mut command, name).and_then(|status| {
            if status.success() {
                Ok(())
            } else {
                bail!("Could not minimise the corpus of {name}: {status}.")
            }
        })?;
        let kept = corpus::replace(&self.corpus, &merged)?;
        process::announce(&format!("{}: {kept}", self.corpus.display()));
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let mut prefix = OsString::from("-artifact_prefix=");
        prefix.push(self.crashes().join(""));
        command.arg(prefix).arg(format!("-timeout={TIMEOUT}"));
        command.arg(format!("-max_len={}", self.target.longest()));
        if let Some(dictionary) = &self.dictionary {
            let mut words = OsString::from("-dict=");
            words.push(dictionary);
            command.arg(words);
        }
        command
    }

    fn found(&self) -> PathBuf {
        self.scratch.join("found").join(self.target.name())
    }

    fn seeds(&self) -> PathBuf {
        self.scratch.join("seeds").join(self.target.name())
    }

    fn crashes(&self) -> PathBuf {
        self.scratch.join("crashes").join(self.target.name())
    }
}

/// The files of a directory, by name.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.with_context(|| format!("Could not read {}.", directory.display()))?;
    let mut paths: Vec<_> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}
