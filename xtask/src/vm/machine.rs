//! Booting a machine and reading what it says.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs::{DONE, FAILED, PASSED};
use crate::process;

/// How long a machine may take in all. It is emulated: nested virtualisation is rarely to be had.
const PATIENCE: Duration = Duration::from_secs(600);

/// Boots a kernel with an initramfs, keeps what it says in `log`, and fails unless every part has passed.
pub(crate) fn run(image: &Path, initramfs: &Path, log: &Path) -> Result<()> {
    let mut machine = Command::new("qemu-system-x86_64");
    // One processor: with two, qemu 7.2 emulates cmpxchg16b wrongly now and then, and newer kernels panic in their allocator.
    machine.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "2G",
        "-smp",
        "1",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
    ]);
    machine.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    machine.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off"]);
    machine.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = machine.spawn().context("Could not start qemu-system-x86_64.")?;
    let console = machine.stdout.take().context("The machine has no console.")?;
    let mut log_file = File::create(log).with_context(|| format!("Could not write {}.", log.display()))?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // Nobody listens any longer once the time is over.
            let _ =
                writeln!(log_file, "{line}").and_then(|()| sender.send(line).map_err(std::io::Error::other));
        }
    });
    let outcome = listen(&lines);
    let _ = machine.kill();
    let _ = machine.wait();
    outcome.with_context(|| format!("The machine's console is in {}.", log.display()))
}

fn listen(lines: &mpsc::Receiver<String>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let (mut passed, mut failed) = (0, Vec::new());
    loop {
        let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            bail!("The machine did not come to its end within {} s, or broke off.", PATIENCE.as_secs());
        };
        if let Some((_, part)) = line.split_once(PASSED) {
            process::announce(&format!("  passed: {}", part.trim()));
            passed += 1;
        } else if let Some((_, part)) = line.split_once(FAILED) {
            process::announce(&format!("  FAILED: {}", part.trim()));
            failed.push(part.trim().to_owned());
        } else if line.contains(DONE) {
            break;
        }
    }
    if !failed.is_empty() {
        bail!("Failed in the machine: {}.", failed.join(", "));
    }
    if passed == 0 {
        bail!("Nothing was tested in the machine.");
    }
    Ok(())
}
