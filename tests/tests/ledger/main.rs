//! The ledger and the kernel: what holds, and what is known afterwards, when the disk is full, the file broken or gone, the agent killed or the
//! clock set.

mod boot_clock;
mod clock;
mod lists;
mod storage;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use guard_tests::cpu_time;
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const ADDRESSES: usize = 100_000;
const PREFIXES: usize = 10_000;
/// How many times as much a list may cost as one of a tenth of its length. What grows with the square costs a hundred times as much.
const OVER_A_TENTH: u32 = 40;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

fn run(guard: &Guard<'_>, arguments: &[&str]) -> Result<String> {
    let (code, stdout, stderr) = guard.output(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(stdout)
}

fn json(guard: &Guard<'_>, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&run(guard, &[arguments, &["--json"]].concat())?)?)
}

/// What `guard blocks` lists, sorted.
fn blocked(guard: &Guard<'_>) -> Result<Vec<String>> {
    let list = json(guard, &["blocks"])?;
    let net = |block: &Value| Some(block["net"].as_str()?.trim_end_matches("/32").to_owned());
    let mut nets: Vec<String> = list.as_array().context("no list")?.iter().filter_map(net).collect();
    nets.sort();
    Ok(nets)
}

fn is_dropped(guard: &Guard<'_>, source: &str) -> Result<bool> {
    Ok(json(guard, &["explain", source, "--port", "22"])?[0]["verdict"] == "drop")
}

fn problems(guard: &Guard<'_>) -> Result<String> {
    Ok(json(guard, &["status"])?["problems"].to_string())
}

/// As after a reboot: nothing is left but the ledger.
fn reboot(guard: &mut Guard<'_>) -> Result<()> {
    guard.end(Signal::SIGTERM)?;
    run(guard, &["detach"])?;
    ensure!(!guard.pins().exists());
    guard.run()
}

/// Starts a command that reads a list.
fn feed(guard: &Guard<'_>, verb: &str, list: &Path) -> Result<Child> {
    let mut command = guard.command(&[verb, "-"])?;
    command.stdin(fs::File::open(list)?).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot run guard")
}

/// What a command said that has ended.
fn said(child: Child) -> Result<String> {
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

struct Lists {
    directory: tempfile::TempDir,
}

impl Lists {
    fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    fn file(&self, name: &str, nets: impl IntoIterator<Item = String>) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::write(&path, nets.into_iter().map(|net| net + "\n").collect::<String>())?;
        Ok(path)
    }

    fn addresses(&self, name: &str, count: usize) -> Result<PathBuf> {
        self.file(name, (0..count).map(|number| address(number).to_string()))
    }
}

fn address(number: usize) -> std::net::Ipv4Addr {
    (0x6440_0000 + u32::try_from(number).unwrap_or(0)).into()
}

/// In all three: /24 within /16 within /9.
fn nested() -> impl Iterator<Item = String> {
    let inner = (0..PREFIXES).map(|number| format!("120.{}.{}.0/24", number >> 8, number & 255));
    let middle = (0..PREFIXES.div_ceil(256)).map(|number| format!("120.{number}.0.0/16"));
    inner.chain(middle).chain(["120.0.0.0/9".into()])
}
