//! `cargo xtask deny`: what cargo-deny says of the crates that guard is made of.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::toolchain::{pins, tool};
use crate::workspace::Workspace;
use crate::{process, supply};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cargo xtask deny

Bans, licences and sources by deny.toml, for each of the three lock files; known vulnerabilities where the database of them can be had. \
cargo-deny is built into target/tools the first time.")]
pub(crate) struct Deny {}

impl Deny {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        let program = tool::ensure(&workspace, "cargo-deny", pins::CARGO_DENY, "some minutes")?;
        let deny = |manifest: &Path| {
            let mut command = Command::new(&program);
            command.arg("--manifest-path").arg(manifest);
            command
        };
        let checked = |command: &mut Command, what: &[&str]| {
            command.arg("check").arg("--config").arg(workspace.deny_rules()).args(what);
            process::run(command)
        };
        for manifest in supply::manifests(&workspace) {
            process::announce(&format!("Bans, licences and sources of {}", manifest.display()));
            checked(&mut deny(&manifest), &["bans", "licenses", "sources"])?;
        }
        let [first, ..] = supply::manifests(&workspace);
        let fetch = deny(&first).arg("fetch").arg("--config").arg(workspace.deny_rules()).arg("db").status();
        if !fetch.is_ok_and(|status| status.success()) {
            process::announce(
                "NOT CHECKED: known vulnerabilities. Their database cannot be had here (above)",
            );
            return Ok(());
        }
        for manifest in supply::manifests(&workspace) {
            process::announce(&format!("Known vulnerabilities of {}", manifest.display()));
            checked(&mut deny(&manifest), &["--disable-fetch", "advisories"])?;
        }
        Ok(())
    }
}
