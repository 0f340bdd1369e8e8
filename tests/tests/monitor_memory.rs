//! Sources without number: a service that only monitors and lets everybody in keeps what the agent remembers of them within bounds.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::frame::{Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{Scene, to_server};
use guard_tests::wait;

const WAVE: u32 = 150_000;
const PATIENCE: Duration = Duration::from_secs(60);
const POLICY: &str = r#"
[attach]
interfaces = ["eth0"]
[[service]]
name = "web"
ports = [8000]
mode = "monitor"
allow = ["0.0.0.0/0", "::/0"]
limits = "few"
[limits.few]
packets_per_second = 10
connections_per_second = 1
connection_burst = 1
max_connections = 20
[autoblock]
connections = 30
refused_per_minute = 60
limited_per_minute = 60
"#;

/// Bytes that the agent has for itself.
fn own_memory(guard: &Guard<'_>) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no such figure")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? << 10)
}

/// A SYN of each of these sources, and what the agent has taken when all are through.
fn wave(guard: &Guard<'_>, wire: &Wire, sources: std::ops::Range<u32>) -> Result<u64> {
    let end = u64::from(sources.end);
    for number in sources {
        let [_, a, b, c] = number.to_be_bytes();
        let source = format!("50.{a}.{b}.{c}");
        let frame = Frame::new(&source, Transport::Tcp { source_port: 40_000, port: 8000, flags: SYN });
        wire.send(&to_server(frame).build())?;
    }
    let seen = || guard.counter("web", Reason::Allowed).is_ok_and(|counter| counter.packets >= end * 9 / 10);
    ensure!(wait::within(PATIENCE, seen), "{:?}", guard.counter("web", Reason::Allowed)?);
    // Two rounds of all that the agent does from time to time.
    std::thread::sleep(Duration::from_secs(12));
    own_memory(guard)
}

#[test]
fn what_is_remembered_of_random_sources_does_not_grow_with_their_number() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, POLICY)?;
    let wire = Wire::open(&scene.client)?;
    let idle = own_memory(&guard)?;
    let first = wave(&guard, &wire, 1..WAVE)?;
    let second = wave(&guard, &wire, WAVE..2 * WAVE)?;
    println!(
        "{} MiB idle, {} MiB after {WAVE} sources, {} MiB after as many more",
        idle >> 20,
        first >> 20,
        second >> 20
    );
    let (grown, more) = (first.saturating_sub(idle), second.saturating_sub(first));
    // The allocator rounds: below a few MiB there is nothing to compare.
    ensure!(more <= (grown / 2).max(4 << 20), "{grown} bytes more for the first, {more} for as many others");
    Ok(())
}
