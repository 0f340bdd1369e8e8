//! Where things lie in this checkout.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

/// The checkout and its target directory, as cargo sees them.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Honours CARGO_TARGET_DIR and cargo's configuration.
    pub(crate) target: PathBuf,
    /// The cargo that runs this program.
    pub(crate) cargo: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let mut command = MetadataCommand::new();
        // Set by `cargo xtask`. Asked when it runs, not when it is compiled: two checkouts that share a
        // target directory share this program too.
        if let Some(xtask) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.current_dir(xtask);
        }
        let metadata = command
            .no_deps()
            .exec()
            .context("Could not ask cargo about the workspace: run `cargo xtask` inside the checkout.")?;
        let target = metadata.target_directory.into_std_path_buf();
        std::fs::create_dir_all(&target)
            .with_context(|| format!("Could not create {}.", target.display()))?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target,
            cargo: std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from),
        })
    }

    /// cargo for the host, in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        command
    }

    pub(crate) fn ebpf_crate(&self) -> PathBuf {
        self.root.join("guard-ebpf")
    }

    pub(crate) fn fuzz_crate(&self) -> PathBuf {
        self.root.join("tests/fuzz")
    }

    /// What the crates may be that guard is made of.
    pub(crate) fn deny_rules(&self) -> PathBuf {
        self.root.join("deny.toml")
    }

    /// The compiled eBPF program, for guard-userspace to embed.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/guard.o")
    }

    /// A program that `cargo xtask build` makes.
    pub(crate) fn binary(&self, profile: Profile, name: &str) -> PathBuf {
        self.target.join(profile.directory()).join(name)
    }
}

/// How programs for the host are built; the eBPF program is always optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}
