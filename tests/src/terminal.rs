//! A real terminal, of tmux, and what is on its screen.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{stale, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal in which a command runs. It is closed at the end.
pub struct Terminal {
    /// Of tmux' server, which is this terminal's own.
    name: String,
}

impl Terminal {
    /// Opens one of so many columns and lines, in which a shell runs `command`, tells how it ended and waits.
    ///
    /// # Errors
    /// When tmux cannot be started.
    pub fn open(size: (u16, u16), command: &str, environment: &[(&str, String)]) -> Result<Self> {
        let terminal = Self { name: format!("{}{}", stale::prefix(), fastrand::u32(..)) };
        let (columns, lines) = (size.0.to_string(), size.1.to_string());
        let mut open = terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines]);
        for (name, value) in environment {
            open.args(["-e", &format!("{name}={value}")]);
        }
        open.args(["sh", "-c", &format!("{command}; echo \"ended with $?\"; exec sleep 600")]);
        ensure!(
            open.status().context("the tests of the terminal need tmux")?.success(),
            "tmux does not start"
        );
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.name]).args(arguments).stdin(Stdio::null());
        command
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn screen(&self) -> Result<String> {
        let output = self.tmux(&["capture-pane", "-p"]).output().context("cannot ask tmux")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with the colours, as ECMA-48 writes them.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn coloured(&self) -> Result<String> {
        let output = self.tmux(&["capture-pane", "-p", "-e"]).output().context("cannot ask tmux")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types keys, by tmux' names of them.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        let status = self.tmux(&[&["send-keys"], keys].concat()).status().context("cannot ask tmux")?;
        ensure!(status.success(), "the terminal is gone");
        Ok(())
    }

    /// Changes its size.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let status = self.tmux(&["resize-window", "-x", &columns, "-y", &lines]).status()?;
        ensure!(status.success(), "the terminal is gone");
        Ok(())
    }

    /// The shell's process.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn shell(&self) -> Result<u32> {
        let output =
            self.tmux(&["display-message", "-p", "#{pane_pid}"]).output().context("cannot ask tmux")?;
        String::from_utf8_lossy(&output.stdout).trim().parse().context("no process")
    }

    /// Waits until the screen is as it should be, and returns it.
    ///
    /// # Errors
    /// With the screen, when it does not become so.
    pub fn expect(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        let found = wait::within(PATIENCE, || {
            last = self.screen().unwrap_or_default();
            is(&last)
        });
        ensure!(found, "{what} is not on the screen:\n{last}");
        Ok(last)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.tmux(&["kill-server"]).stderr(Stdio::null()).status();
    }
}
