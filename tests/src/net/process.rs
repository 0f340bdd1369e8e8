//! Processes: one that ends with its handle, and one that is waited for.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until;

/// How much of what a command said is told of its failure: tools quote what they do not understand.
const QUOTED: usize = 500;

/// Runs a command to its end, with this on its standard input.
///
/// # Errors
/// When it cannot be started, or fails; with what it said.
pub fn feed(command: &mut Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().context("no way in")?;
    let output = thread::scope(|scope| {
        // One that ends early does not read all of it, and says why.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    })?;
    let said = [output.stdout, output.stderr].concat();
    let said: String = String::from_utf8_lossy(&said).chars().take(QUOTED).collect();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    /// Its process id: `nsenter` becomes the program that it starts.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// When its state cannot be asked for.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for the state of a process")
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// When the process goes on for longer than `patience`.
    pub fn end_by(&mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        let deadline = Instant::now() + patience;
        let mut status = None;
        until(deadline, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        match status {
            Some(status) => Ok(status),
            None => bail!("process {} is still there {patience:?} after {signal}", self.id()),
        }
    }

    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.id()).context("a process id that is none")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("cannot send {signal} to process {id}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
