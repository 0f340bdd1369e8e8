//! `cargo xtask mutants`: which changes of the code does no test notice?

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::consent::Consent;
use crate::toolchain::{pins, tool};
use crate::workspace::Workspace;
use crate::{bpf, environment, process, toolchain};

/// The exit status of cargo-mutants where mutants were missed, or ran until their time was over.
const MISSED: [Option<i32>; 2] = [Some(2), Some(3)];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask mutants                     every area; hours
  cargo xtask mutants common              one area
  cargo xtask mutants config --shard 0/8  an eighth of an area
  cargo xtask mutants plan --list         which changes would be tried

Each change runs against the unit tests of its crate and against tests/proof, not against the tests in the kernel. \
The results lie in target/mutants/AREA/mutants.out; missed.txt lists the changes that no test noticed. \
.cargo/mutants.toml lists the changes that no test can notice, each with its reason.")]
pub(crate) struct Mutants {
    /// What to change [default: every area, one after the other]
    area: Option<Area>,
    /// Try only part K of N of the changes: K/N, with K from 0
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// List the changes, and try none
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    consent: Consent,
}

/// A part of the code whose tests need no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Area {
    /// The decision and the parser
    Common,
    /// From a policy to the tables of the kernel
    Plan,
    /// Automatic blocks
    Autoblock,
    /// The reader of policy files
    Config,
}

impl Area {
    const ALL: [Self; 4] = [Self::Common, Self::Plan, Self::Autoblock, Self::Config];

    const fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Plan => "plan",
            Self::Autoblock => "autoblock",
            Self::Config => "config",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Common => "guard-common",
            Self::Plan | Self::Autoblock | Self::Config => "guard-userspace",
        }
    }

    const fn files(self) -> &'static str {
        match self {
            Self::Common => "guard-common/src/**/*.rs",
            Self::Plan => "guard-userspace/src/plan/**/*.rs",
            Self::Autoblock => "guard-userspace/src/autoblock/**/*.rs",
            Self::Config => "guard-userspace/src/config/**/*.rs",
        }
    }
}

impl Mutants {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let program = tool::ensure(&workspace, "cargo-mutants", pins::CARGO_MUTANTS, "some minutes")?;
        // Guard's library embeds the eBPF program.
        let toolchain = toolchain::ensure(&workspace, self.consent)?;
        bpf::build(&workspace, &toolchain)?;
        let mut missed = Vec::new();
        for area in Area::ALL.into_iter().filter(|area| self.area.is_none_or(|only| only == *area)) {
            process::announce(&format!("Changes of {}", area.files()));
            let results = workspace.target.join("mutants").join(area.name());
            std::fs::create_dir_all(&results)
                .with_context(|| format!("Could not create {}.", results.display()))?;
            if !Self::is_noticed(&mut self.command(&workspace, &program, area, &[area.package()]))? {
                // The slower tests try only what the faster ones have missed.
                let mut again = self.command(&workspace, &program, area, &[area.package(), "guard-proof"]);
                if !Self::is_noticed(again.arg("--iterate"))? {
                    missed.push(area.name());
                }
            }
        }
        if missed.is_empty() {
            return Ok(());
        }
        bail!(
            "no test notices some changes of {}: see target/mutants/AREA/mutants.out/missed.txt",
            missed.join(", ")
        )
    }

    /// Runs cargo-mutants, and returns whether the tests notice every change.
    fn is_noticed(command: &mut Command) -> Result<bool> {
        match command.status()?.code() {
            Some(0) => Ok(true),
            code if MISSED.contains(&code) => Ok(false),
            code => bail!("cargo-mutants failed with status {code:?}: see its words above"),
        }
    }

    fn command(&self, workspace: &Workspace, program: &Path, area: Area, tests: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("mutants").current_dir(&workspace.root);
        // cargo-mutants works in a copy of the tree, which has no target directory.
        environment::without_host_build(&mut command).env("GUARD_BPF_OBJECT", workspace.bpf_object());
        command.env_remove("CARGO_TARGET_DIR").arg("--no-shuffle");
        command.args(["--package", area.package(), "--file", area.files()]);
        command.args(["--test-package", &tests.join(",")]);
        command.arg("--output").arg(workspace.target.join("mutants").join(area.name()));
        if let Some(shard) = &self.shard {
            command.args(["--shard", shard]);
        }
        if self.list {
            command.arg("--list");
        }
        command
    }
}
