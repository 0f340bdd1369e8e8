//! How full the tables are, and what they take: the numbers are right, and cheap to have.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_common::abi::{Block, Correction, End, FlowKey, Marks, SourceKey, Tracked};
use guard_common::{Address, abi};
use guard_tests::cpu_time;
use guard_tests::frame::Frame;
use guard_tests::kernel::{self, Kernel};
use guard_tests::large;
use guard_userspace::config::Capacity;
use guard_userspace::datapath::{Capacities, Fill, Maps, Options};
use ipnet::{IpNet, Ipv4Net};

const MILLION: u32 = 1_000_000;

/// Entries and capacities by table.
fn fill(maps: &Maps) -> Result<BTreeMap<&'static str, (u64, Option<u64>)>> {
    let entry = |Fill { table, entries, capacity }| (table, (entries, capacity));
    Ok(maps.fill()?.into_iter().map(entry).collect())
}

fn prefixes(count: u32) -> Vec<(IpNet, Block)> {
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    (0..count).map(|number| (IpNet::V4(Ipv4Net::new_assert((number << 8).into(), 24)), forever)).collect()
}

/// Within four standard deviations of an estimate from 4,096 entries.
fn ensure_near(name: &str, found: u64, truth: u64) -> Result<()> {
    let error = found.abs_diff(truth) as f64 / truth as f64;
    ensure!(error < 0.065, "{name}: {found} instead of {truth}");
    Ok(())
}

#[test]
fn few_entries_are_counted_exactly() -> Result<()> {
    let mut kernel = Kernel::new(None)?;
    let empty = fill(kernel.datapath.maps())?;
    let expected = [
        ("block_prefixes", (0, Some(4096))),
        ("blocks", (0, Some(4096))),
        ("clients", (0, Some(4096))),
        ("connections", (0, Some(4096))),
        // Before the first policy there are no rules at all.
        ("sources", (0, Some(1 << 17))),
    ];
    assert_eq!(empty, BTreeMap::from(expected));

    kernel.publish(&kernel::plan(&large::policy(10))?)?;
    let maps = kernel.datapath.maps_mut();
    maps.write_blocks(&large::blocks(4000))?;
    maps.write_blocks(&prefixes(1234))?;
    // The same ones again are none more.
    maps.write_blocks(&large::blocks(4000))?;
    maps.write_blocks(&prefixes(1234))?;
    let service = abi::Service::new(false, 32, 64);
    let source = |last| SourceKey::new(abi::ServiceId::new(1), &service, Address::v4([10, 0, 0, last]));
    maps.write_connections(&[(source(2), 5)])?;
    let tracked = Tracked {
        source: source(1),
        flow: FlowKey::new(Address::v4([10, 0, 0, 1]), 40_000, source(1).service()),
        namespace: 1,
        marks: Marks(0),
    };
    kernel.datapath.correct(&Correction::Open { cookie: 1, tracked })?;
    for number in 0..7 {
        kernel.judge(&Frame::segment(&large::allowed(number), 8000).build())?;
    }
    let expected = [
        ("block_prefixes", (1234, Some(4096))),
        ("blocks", (4000, Some(4096))),
        ("clients", (2, Some(4096))),
        ("connections", (1, Some(4096))),
        ("rules_v4", (11, None)),
        ("rules_v6", (0, None)),
        ("sources", (7, Some(1 << 17))),
    ];
    assert_eq!(fill(kernel.datapath.maps())?, BTreeMap::from(expected));

    let maps = kernel.datapath.maps_mut();
    assert!(maps.remove_block(&"100.64.0.1/32".parse()?)? && maps.remove_block(&"0.0.1.0/24".parse()?)?);
    let after = fill(maps)?;
    assert_eq!((after["blocks"].0, after["block_prefixes"].0), (3999, 1233));
    Ok(())
}

#[test]
fn a_million_entries_are_known_nearly_and_without_a_walk() -> Result<()> {
    let mut kernel = Kernel::with(&Options::default())?;
    kernel.publish(&kernel::plan(&large::policy(100_000))?)?;
    let maps = kernel.datapath.maps_mut();
    let mut costs = Vec::new();
    for blocks in [5_000, 50_000, MILLION] {
        maps.write_blocks(&large::blocks(blocks))?;
        ensure_near("blocks", fill(maps)?["blocks"].0, u64::from(blocks))?;
        costs.push(cost_of_a_look(maps)?);
    }
    maps.write_blocks(&prefixes(100_000))?;
    let full = fill(maps)?;
    // Before Linux 6.4 tries are counted one by one, up to here.
    assert!(matches!(full["block_prefixes"].0, 100_000 | 4096), "{full:?}");
    assert_eq!(full["rules_v4"].0, 100_001);

    println!("CPU time of a look at all tables with 5,000, 50,000 and a million blocks: {costs:?}");
    // A walk would take two hundred times as much.
    assert!(costs[2] < 5 * costs[0], "{costs:?}");
    Ok(())
}

/// The median of what a CPU spends on it.
fn cost_of_a_look(maps: &Maps) -> Result<Duration> {
    let mut took = Vec::new();
    for _ in 0..9 {
        let (fill, spent) = cpu_time::of(|| maps.fill())?;
        fill?;
        took.push(spent);
    }
    took.sort();
    Ok(took[4])
}

#[test]
fn the_tables_take_what_the_documentation_says() -> Result<()> {
    /// docs/performance.md: "The defaults take".
    const BUDGET: u64 = 205 << 20;
    let kernel = Kernel::with(&Options::default())?;
    let memory = kernel.datapath.maps().memory()?;
    // Before Linux 6.4 the kernel's account does not go by entries: an empty trie is said to take much.
    if !memory.contains(&("BLOCK_PREFIXES", 0)) {
        return Ok(());
    }
    let all: u64 = memory.iter().map(|(_, bytes)| bytes).sum();
    println!("{memory:?}: {all}");
    assert!(all <= BUDGET, "{all} bytes: {memory:?}");
    // What `guard check` says of other sizes is what the kernel takes for them.
    for (blocks, sources, connections) in [(1 << 20, 1 << 18, 1 << 17), (100_000, 1_000_000, 3000)] {
        let capacities = Capacities { blocks, sources, connections };
        let kernel = Kernel::with(&Options { capacities, ..Options::default() })?;
        let memory = kernel.datapath.maps().memory()?;
        let sized = ["BLOCKS", "METERS", "CONNECTIONS", "SOCKETS", "FLOWS"];
        let found: u64 = memory.iter().filter(|(name, _)| sized.contains(name)).map(|(_, bytes)| bytes).sum();
        let said = Capacity { blocks, sources, connections }.memory();
        assert!(found.abs_diff(said) < said / 20, "{capacities:?}: {found} bytes, {said} are said");
    }
    Ok(())
}
