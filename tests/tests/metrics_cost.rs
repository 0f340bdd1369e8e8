//! What a scrape costs, and whom it waits for.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::Address;
use guard_common::abi::{Service, ServiceId, SourceKey};
use guard_tests::cpu_time;
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::large;
use guard_tests::raw::Wire;
use guard_tests::scene::{Scene, to_server};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(90);
const TWO_COMPARISONS: Duration = Duration::from_secs(20);
const BLOCKS: u32 = 1_000_000;
const SOURCES: u32 = 100_000;

/// A limit makes the program keep state of each source.
const POLICY: &str = "[attach]\ninterfaces = [\"eth0\"]\n\
    [[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = [\"10.0.0.0/8\"]\nlimits = \"wide\"\n\
    [limits.wide]\npackets_per_second = 10000000\n\
    [capacity]\nblocks = 1048576\nsources = 262144\nconnections = 131072\n";

/// A metric by its name and labels.
fn metric(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {name}: {text}"))
}

/// Fills the tables: blocks and connections as they would be, and the limiter by a packet from each source.
fn fill(scene: &Scene, guard: &Guard<'_>) -> Result<()> {
    guard.maps()?.write_blocks(&large::blocks(BLOCKS))?;
    let wire = Wire::open(&scene.client)?;
    for number in 0..SOURCES {
        let address = Ipv4Addr::from_bits(10 << 24 | number << 4).to_string();
        wire.send(&to_server(Frame::udp(&address, 8000)).build())?;
    }
    plant(guard)
}

/// Counts connections that no socket has. The agent takes them for drift, and corrects the count after two comparisons.
fn plant(guard: &Guard<'_>) -> Result<()> {
    let mut maps = guard.maps()?;
    let id: ServiceId = *maps.service_names()?.get("web").context("no service")?;
    let service = Service::new(false, 32, 64);
    let source =
        |number: u32| SourceKey::new(id, &service, Address::v4((10 << 24 | number << 4).to_be_bytes()));
    Ok(maps.write_connections(&(0..SOURCES).map(|number| (source(number), 2)).collect::<Vec<_>>())?)
}

#[test]
fn a_scrape_of_full_tables_costs_no_walk_through_them() -> Result<()> {
    /// A walk takes tens of times as much.
    const MOST: f64 = 2.5;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, POLICY)?;
    let empty = cost_of_a_scrape(&guard)?;
    fill(&scene, &guard)?;
    // Of so many sources it is known a few seconds later how many they are, and then exactly, until the agent corrects the count.
    let is_known = || -> Result<bool> {
        let text = guard.metrics()?;
        let all = u64::from(SOURCES);
        Ok(metric(&text, "guard_sources{service=\"web\"}")? == all
            && metric(&text, "guard_connections{service=\"web\"}")? == 2 * all)
    };
    let becomes_known =
        || plant(&guard).is_ok() && wait::within(TWO_COMPARISONS, || is_known().unwrap_or(false));
    ensure!(wait::within(PATIENCE, becomes_known), "{}", guard.metrics()?);
    plant(&guard)?;
    let full = cost_of_a_scrape(&guard)?;
    println!("a scrape costs {empty:?} of a CPU with empty tables, {full:?} with full ones");
    ensure!(full.as_secs_f64() < MOST * empty.as_secs_f64(), "{empty:?}, and {full:?} with full tables");

    let text = guard.metrics()?;
    for (table, entries) in [("blocks", BLOCKS), ("sources", SOURCES), ("clients", SOURCES)] {
        let found = metric(&text, &format!("guard_map_entries{{map=\"{table}\"}}"))?;
        ensure!(found.abs_diff(entries.into()) < u64::from(entries) / 15, "{table}: {found}");
    }
    Ok(())
}

/// What the threads spend that answer scrapes: after its tables were filled, the agent takes a million blocks over into its ledger and
/// corrects a hundred thousand counts, beside that. Of so many the lower quartile, since what the machine does besides only adds to it.
fn cost_of_a_scrape(guard: &Guard<'_>) -> Result<Duration> {
    const SCRAPES: usize = 21;
    let spent = || cpu_time::of_threads(guard.pid()?, "metrics");
    let cost = |_| -> Result<Duration> {
        let before = spent()?;
        guard.metrics()?;
        Ok(spent()?.saturating_sub(before))
    };
    let mut costs = (0..SCRAPES).map(cost).collect::<Result<Vec<_>>>()?;
    costs.sort();
    Ok(costs[SCRAPES / 4])
}

#[test]
fn a_scrape_waits_for_nobody() -> Result<()> {
    const MANY: u32 = 200_000;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, POLICY)?;
    let list: String = (0..MANY).map(|number| format!("{}\n", large::blocked(number))).collect();
    let mut block = guard.command(&["block", "-", "--scope", "services"])?;
    let mut block = block.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    block.stdin.take().context("no stdin")?.write_all(list.as_bytes())?;
    let (mut waited, begun) = (Vec::new(), Instant::now());
    while block.try_wait()?.is_none() {
        let asked = Instant::now();
        guard.metrics()?;
        waited.push(asked.elapsed());
    }
    let all = begun.elapsed();
    ensure!(block.wait()?.success(), "{}", guard.log());
    waited.sort();
    println!(
        "{} scrapes while {MANY} blocks were made in {all:?}: {:?} at most",
        waited.len(),
        waited.last()
    );
    ensure!(waited.len() >= 5 && waited.iter().all(|time| *time < all / 2), "{all:?}: {waited:?}");
    ensure!(metric(&guard.metrics()?, "guard_blocks{origin=\"manual\"}")? == u64::from(MANY));
    Ok(())
}
