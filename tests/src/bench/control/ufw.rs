//! ufw on a host of a test network, as its package installs it: the machine's own files and rules are neither read nor written.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::net::{Host, feed};
use crate::stale;

/// What the package brings.
const TEMPLATES: &str = "/usr/share/ufw";
const FILES: &str = "/etc/ufw";
/// Rules by the file that they come from, and what is not there as a template: nothing is to be set or started.
const RULES: [&str; 6] =
    ["after.rules", "after6.rules", "before.rules", "before6.rules", "user.rules", "user6.rules"];
const EMPTY: [&str; 3] = ["before.init", "after.init", "sysctl.conf"];

pub(super) struct Ufw<'a> {
    host: &'a Host,
    files: TempDir,
}

impl<'a> Ufw<'a> {
    /// # Errors
    /// When ufw is missing or does not work.
    pub(super) fn enable(host: &'a Host) -> Result<Self> {
        let files =
            tempfile::Builder::new().prefix(&stale::prefix()).tempdir().context("no directory for ufw")?;
        let templates = Path::new(TEMPLATES);
        for name in RULES {
            copy(&templates.join("iptables").join(name), &files.path().join(name))?;
        }
        copy(&templates.join("ufw.conf"), &files.path().join("ufw.conf"))?;
        for name in EMPTY {
            fs::write(files.path().join(name), "").context("cannot write the files of ufw")?;
        }
        fs::create_dir(files.path().join("applications.d")).context("cannot write the files of ufw")?;
        let ufw = Self { host, files };
        feed(&mut ufw.command(&["--force", "enable"]), "")?;
        Ok(ufw)
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        self.start("ufw", arguments)
    }

    /// A command in a mount namespace where the files of ufw are those made here: some milliseconds more than by itself.
    pub(super) fn start(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command("unshare");
        let script =
            format!("mount --bind \"$0\" {FILES} && mount -t tmpfs tmpfs /run && exec {program} \"$@\"");
        command.args(["--mount", "sh", "-c", &script]).arg(self.files.path()).args(arguments);
        command
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}
