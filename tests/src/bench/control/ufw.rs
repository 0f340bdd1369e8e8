//! ufw on a host of a test network: its files are copies, so that the machine's own stay as they are.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::net::Host;
use crate::stale;

const FILES: &str = "/etc/ufw";

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
        let copied = Command::new("cp").arg("-a").arg(format!("{FILES}/.")).arg(files.path()).status();
        ensure!(copied.context("cannot run cp")?.success(), "cannot copy {FILES}");
        let ufw = Self { host, files };
        let output = ufw.command(&["--force", "enable"]).output().context("cannot run ufw")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "ufw: {}", String::from_utf8_lossy(&said));
        Ok(ufw)
    }

    /// ufw with these arguments, in a mount namespace where its files are the copies: some milliseconds more than by itself.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("unshare");
        let script = format!("mount --bind \"$0\" {FILES} && exec ufw \"$@\"");
        command.args(["--mount", "sh", "-c", &script]).arg(self.files.path()).args(arguments);
        command
    }
}
