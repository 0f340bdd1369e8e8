//! One run of qemu: its console is followed, kept, and judged.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cache::Unpacked;
use super::report::{News, Report};
use crate::process;

const QEMU: &str = "qemu-system-x86_64";
/// A run takes about a minute; a machine with much else to do gets time.
const PATIENCE: Duration = Duration::from_secs(600);

/// In software (TCG), because a virtual machine inside of another has no KVM that can be relied on. One CPU, because with two
/// qemu 7.2 emulates cmpxchg16b wrongly now and then, and newer kernels panic in their allocator. No network, no disk.
const ARGUMENTS: [&str; 13] = [
    "-accel",
    "tcg",
    "-cpu",
    "max",
    "-smp",
    "1",
    "-m",
    "2G",
    "-nographic",
    "-no-reboot",
    "-nodefaults",
    "-serial",
    "stdio",
];
/// `panic=-1` ends the machine at once.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off";

/// What the clock inside goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Time,
    /// A nanosecond each, so that what takes a time takes as many instructions; while nothing is to be done it jumps to what comes next.
    Instructions,
}

impl Clock {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Time => &[],
            Self::Instructions => &["-icount", "shift=0,sleep=off"],
        }
    }
}

/// Boots a kernel. Its console goes to `log`; the report that is in it comes back.
pub(crate) fn run(kernel: &Unpacked, image: &Path, log: &Path, clock: Clock) -> Result<Report> {
    let mut qemu = Command::new(QEMU);
    qemu.args(ARGUMENTS).args(clock.arguments()).arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    qemu.args(["-append", COMMAND_LINE]).stdin(Stdio::null()).stdout(Stdio::piped());
    let log = File::create(log).with_context(|| format!("Could not write {}.", log.display()))?;
    let mut machine = Machine(qemu.spawn().with_context(|| format!("Could not start {QEMU}."))?);
    let console = machine.0.stdout.take().context("qemu has no console.")?;
    let (sender, lines) = channel();
    let reader = thread::spawn(move || follow(console, log, &sender));
    let report = listen(&lines)?;
    reader.join().ok().context("The reader of the console has panicked.")??;
    let status = machine.0.wait().context("Could not wait for qemu.")?;
    if !status.success() {
        bail!("qemu ended with {status}.");
    }
    Ok(report)
}

/// Ends with its owner, so that no qemu stays behind after an error.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended, and nobody is left to be told.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps each line and passes it on.
fn follow(console: ChildStdout, mut log: File, lines: &Sender<String>) -> Result<()> {
    for line in BufReader::new(console).split(b'\n') {
        let line = line.context("Could not read the console.")?;
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        writeln!(log, "{line}").context("Could not write the log of the console.")?;
        // Nobody listens any longer once the time is over.
        let _ = lines.send(line);
    }
    Ok(())
}

/// Reads the console until the machine has ended.
fn listen(lines: &Receiver<String>) -> Result<Report> {
    let deadline = Instant::now() + PATIENCE;
    let mut report = Report::default();
    let mut since = Instant::now();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => match report.read(&line) {
                Some(News::Began) => since = Instant::now(),
                Some(News::Ended { step, passed }) => {
                    let verdict = if passed { "ok" } else { "FAILED" };
                    process::announce(&format!(
                        "  {step}: {verdict}, {:.1} s",
                        since.elapsed().as_secs_f64()
                    ));
                }
                None => {}
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(report),
            Err(RecvTimeoutError::Timeout) => {
                bail!("It did not end within {} s, and said:\n{}", PATIENCE.as_secs(), report.said())
            }
        }
    }
}
