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

const PATIENCE: Duration = Duration::from_secs(60);
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
    let mut maps = guard.maps()?;
    let id: ServiceId = *maps.service_names()?.get("web").context("no service")?;
    let service = Service::new(false, 32, 64);
    let source =
        |number: u32| SourceKey::new(id, &service, Address::v4((10 << 24 | number << 4).to_be_bytes()));
    maps.write_connections(&(0..SOURCES).map(|number| (source(number), 2)).collect::<Vec<_>>())?;
    Ok(())
}

#[test]
fn a_scrape_of_full_tables_costs_no_walk_through_them() -> Result<()> {
    /// A walk takes tens of times as much.
    const MOST: f64 = 6.0;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, POLICY)?;
    let empty = cost_of_a_scrape(&guard)?;
    fill(&scene, &guard)?;
    let full = cost_of_a_scrape(&guard)?;
    println!("a scrape costs {empty:?} of a CPU with empty tables, {full:?} with full ones");
    ensure!(full.as_secs_f64() < MOST * empty.as_secs_f64(), "{empty:?}, and {full:?} with full tables");

    let text = guard.metrics()?;
    for (table, entries) in [("blocks", BLOCKS), ("sources", SOURCES), ("clients", SOURCES)] {
        let found = metric(&text, &format!("guard_map_entries{{map=\"{table}\"}}"))?;
        ensure!(found.abs_diff(entries.into()) < u64::from(entries) / 15, "{table}: {found}");
    }
    // Of so many sources it is known a few seconds later how many they are, and then exactly.
    let is_known = || -> Result<bool> {
        let text = guard.metrics()?;
        let all = u64::from(SOURCES);
        Ok(metric(&text, "guard_sources{service=\"web\"}")? == all
            && metric(&text, "guard_connections{service=\"web\"}")? == 2 * all)
    };
    ensure!(wait::within(PATIENCE, || is_known().unwrap_or(false)), "{}", guard.metrics()?);
    Ok(())
}

/// The lower quartile: what the agent does besides, on a busy machine in most scrapes, only adds to it.
fn cost_of_a_scrape(guard: &Guard<'_>) -> Result<Duration> {
    const SCRAPES: usize = 21;
    let cost = |_| -> Result<Duration> {
        let before = cpu_time::of_process(guard.pid()?)?;
        guard.metrics()?;
        Ok(cpu_time::of_process(guard.pid()?)?.saturating_sub(before))
    };
    let mut spent = (0..SCRAPES).map(cost).collect::<Result<Vec<_>>>()?;
    spent.sort();
    Ok(spent[SCRAPES / 4])
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
