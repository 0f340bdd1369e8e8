//! What was measured as tables, part by part.

use std::time::Duration;

use anyhow::{Context, Result};
use guard_userspace::datapath::Capacities;

use super::cost::{Cost, Effort, Measured, Size};
use super::flood::Flood;
use super::table::{Cell, Table};
use super::{control, cost, flood, frames, goodput, load, memory, preallocation, scaling};

/// A quantity, in a unit that people read.
const MEBIBYTE: f64 = (1 << 20) as f64;

/// Prefixes that all of the filters take: nftables takes seconds for more.
const MOST_PREFIXES: u32 = 10_000;
/// A frame of a flood takes some hundred nanoseconds; there are to be enough of them.
const FLOOD: u32 = 4;

/// # Errors
/// As [`Flood::measure`].
pub fn flood(size: Size, Effort { rounds, packets }: Effort) -> Result<Vec<Table>> {
    let size = Size { prefixes: size.prefixes.min(MOST_PREFIXES), ..size };
    let floods = [
        (Flood::STRANGERS, "flood", "strangers"),
        (Flood::CLIENT, "flood-client", "one allowed client over its limit of 100 packets a second"),
    ];
    let table = |(flood, name, of): (Flood, &str, &str)| {
        let title = format!(
            "a flood of {of}, {} prefixes allowed, {} addresses blocked (guard): a frame, its sending included",
            size.prefixes, size.blocks
        );
        let columns = [("ns", 0), ("bare drops", 2), ("ns over a bare drop", 0)];
        let mut table = Table::new(name, title, &columns);
        for flood::Row { filter, nanoseconds, ratio, more } in flood.measure(size, rounds, packets * FLOOD)? {
            table.row(filter, [nanoseconds, ratio, more].map(Cell::Spread));
        }
        Ok(table)
    };
    floods.into_iter().map(table).collect()
}

/// How often, how long and by how large a flood goodput is measured.
#[derive(Clone, Copy, Debug)]
pub struct Goodput {
    pub rounds: u32,
    pub seconds: u64,
    /// Of what can be sent.
    pub percent: u32,
}

/// # Errors
/// As [`goodput::measure`].
pub fn goodput(size: Size, Goodput { rounds, seconds, percent }: Goodput) -> Result<Vec<Table>> {
    let size = Size { prefixes: size.prefixes.min(MOST_PREFIXES), ..size };
    let effort =
        goodput::Effort { rounds, time: Duration::from_secs(seconds), share: f64::from(percent) / 100.0 };
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let goodput::Goodput { pace, rows } =
        goodput::measure(size, effort, &own.with_file_name("guard-streaming-server"))?;
    let title = format!(
        "allowed clients during a flood of {:.0} thousand frames a second, {} prefixes allowed, {} addresses blocked (guard)",
        pace / 1e3,
        size.prefixes,
        size.blocks
    );
    let columns = [
        ("requests/s", 0),
        ("p50, ms", 2),
        ("p99, ms", 2),
        ("longest stall, ms", 0),
        ("frames/s, thousands", 0),
        ("received, %", 0),
    ];
    let mut table = Table::new("goodput", title, &columns);
    for row in rows {
        let goodput::Row { filter, flooded, offered, received, requests, p50, p99, stall } = row;
        let name = if flooded { filter.into() } else { format!("{filter}, no flood") };
        let flood = [offered.scaled(1e-3), received].map(|spread| flooded.then_some(spread).into());
        let served = [requests, p50, p99, stall].map(Cell::Spread);
        table.row(name, served.into_iter().chain(flood).collect::<Vec<_>>());
    }
    Ok(vec![table])
}

/// # Errors
/// As [`load::measure`].
pub fn load(size: Size) -> Result<Vec<Table>> {
    let load::Load { compiled, published, blocked } = load::measure(size)?;
    let title = format!("until live: {} prefixes and {} blocks", size.prefixes, size.blocks);
    let mut table = Table::new("load", title, &[("ms", 1)]);
    let steps =
        [("policy read and compiled", compiled), ("policy live", published), ("blocks live", blocked)];
    for (step, took) in steps {
        table.row(step, [Cell::Number(took.as_secs_f64() * 1e3)]);
    }
    Ok(vec![table])
}

/// # Errors
/// As [`cost::measure`].
pub fn costs(size: Size, effort: Effort) -> Result<Vec<Table>> {
    let columns = [
        ("small tables, ns", 0),
        ("bare drops", 2),
        ("full tables, ns", 0),
        ("bare drops", 2),
        ("full over small", 2),
    ];
    let title = format!(
        "a packet in a test run, and over a bare XDP_DROP of the same round (full: {} prefixes, {} blocks)",
        size.prefixes, size.blocks
    );
    let mut table = Table::new("packet", title, &columns);
    table.plotted = 2;
    for Cost { packet, hot, small, full, growth } in cost::measure(size, effort)? {
        let source = if hot { "same source" } else { "new sources" };
        let [nanoseconds, ratio] =
            [|Measured { nanoseconds, .. }| nanoseconds, |Measured { ratio, .. }| ratio];
        let cells =
            [small.map(nanoseconds), small.map(ratio), Some(nanoseconds(full)), Some(ratio(full)), growth];
        table.row(format!("{packet}, {source}"), cells.map(Cell::from));
    }
    Ok(vec![table])
}

/// The tables of [`sizes`]: prefixes and blocks grow by turns.
const SIZES: [Size; 5] = [
    Size { prefixes: 1_000, blocks: 1_000 },
    Size { prefixes: 10_000, blocks: 1_000 },
    Size { prefixes: 100_000, blocks: 1_000 },
    Size { prefixes: 1_000, blocks: 100_000 },
    Size { prefixes: 1_000, blocks: 1_000_000 },
];
/// Its packets, whether from the same source, and their columns. The clients are as many as there are prefixes, the blocked as there are blocks.
const SIZED: [(&str, bool, &str); 6] = [
    ("stranger, forged", true, "stranger, same"),
    ("stranger, forged", false, "stranger, new"),
    ("allowed", true, "allowed, same"),
    ("allowed", false, "allowed, new"),
    ("blocked", true, "blocked, same"),
    ("blocked", false, "blocked, new"),
];

/// # Errors
/// As [`cost::measure`].
pub fn sizes(effort: Effort) -> Result<Vec<Table>> {
    let columns = SIZED.map(|(.., column)| (column, 1));
    let title = "a packet in a test run, in bare XDP_DROPs, as tables grow; of the same source, or of a new one each time";
    let mut table = Table::new("sizes", title, &columns);
    table.plotted = 3;
    for size in SIZES {
        let costs = cost::measure(size, effort)?;
        let of = |packet, hot| {
            let found = costs.iter().find(|cost| cost.packet == packet && cost.hot == hot);
            Cell::from(found.map(|cost| cost.full.ratio))
        };
        let name = format!("{} prefixes, {} blocks", size.prefixes, size.blocks);
        table.row(name, SIZED.map(|(packet, hot, _)| of(packet, hot)));
    }
    Ok(vec![table, tracked(effort)?])
}

/// Sources with limits that are tracked: more than there is room for by default.
const SOURCES: [u32; 4] = [1, 1_000, 100_000, 1_000_000];

fn tracked(effort: Effort) -> Result<Table> {
    let title = "an allowed packet in a test run, each time of another one of so many sources with limits";
    let mut table = Table::new("sources", title, &[("ns", 0), ("bare drops", 1)]);
    for (sources, Measured { nanoseconds, ratio }) in
        SOURCES.into_iter().zip(cost::tracked(&SOURCES, effort)?)
    {
        table.row(format!("{sources} sources"), [Cell::Spread(nanoseconds), Cell::Spread(ratio)]);
    }
    Ok(table)
}

/// # Errors
/// As [`frames::measure`].
pub fn frames(size: Size, effort: Effort, program: Option<u32>) -> Result<Vec<Table>> {
    let title = format!(
        "a frame in a test run: nanoseconds over a bare XDP_DROP (full: {} prefixes, {} blocks)",
        size.prefixes, size.blocks
    );
    let columns = [("small tables, ns", 0), ("full tables, ns", 0), ("xdp-filter, no list, ns", 0)];
    let mut table = Table::new("frames", title, &columns);
    if let Some(number) = program {
        table.column(format!("program {number}, ns"), 0);
    }
    for frames::Row { frame, small, full, xdp_filter, loaded } in frames::measure(size, effort, program)? {
        let cells = [Some(small), Some(full), xdp_filter, loaded].map(Cell::from);
        table.row(frame, &cells[..table.columns.len()]);
    }
    Ok(vec![table])
}

/// # Errors
/// As [`preallocation::measure`].
pub fn preallocation(size: Size, effort: Effort) -> Result<Vec<Table>> {
    let title =
        format!("a table of blocks with room for {}: look-up of a new key each time", preallocation::ROOM);
    let mut table = Table::new(
        "preallocation",
        title,
        &[("filled in, ms", 1), ("memory, MiB", 1), ("hit, ns", 0), ("miss, ns", 0)],
    );
    table.plotted = 2;
    for entries in [10_000, size.blocks] {
        for measured in preallocation::measure(entries, effort)? {
            let preallocation::Table { preallocated, entries, filled_in, bytes, hit, miss } = measured;
            let when = if preallocated { "at once" } else { "when written" };
            let (filled_in, memory) = (filled_in.as_secs_f64() * 1e3, bytes as f64 / MEBIBYTE);
            let cells =
                [Cell::Number(filled_in), Cell::Number(memory), Cell::Spread(hit), Cell::Spread(miss)];
            table.row(format!("{entries} entries, allocated {when}"), cells);
        }
    }
    Ok(vec![table])
}

/// Smaller tables are only in the sum.
const SHOWN: u64 = 64 << 10;

/// # Errors
/// As the functions of [`mod@super::memory`].
pub fn memory(size: Size) -> Result<Vec<Table>> {
    let million = Capacities { sources: 1_000_000, ..Capacities::default() };
    let mut tables = Vec::new();
    for (name, what, capacities) in [
        ("memory", "by default", Capacities::default()),
        ("memory-sources", "with room for a million sources", million),
    ] {
        let mut table = Table::new(name, format!("kernel memory of the tables {what}"), &[("MiB", 1)]);
        let measured = memory::of_tables(capacities)?;
        let all: u64 = measured.iter().map(|table| table.bytes).sum();
        for memory::Memory { what, bytes, .. } in measured.into_iter().filter(|table| table.bytes >= SHOWN) {
            table.row(what, [Cell::Number(bytes as f64 / MEBIBYTE)]);
        }
        table.row("all", [Cell::Number(all as f64 / MEBIBYTE)]);
        tables.push(table);
    }
    let mut table = Table::new("memory-prefixes", "what they grow by", &[("MiB", 1), ("bytes each", 0)]);
    for memory::Memory { what, entries, bytes } in memory::of_prefixes(size)? {
        let each = bytes as f64 / entries.max(1) as f64;
        table.row(format!("{entries} {what}"), [Cell::Number(bytes as f64 / MEBIBYTE), Cell::Number(each)]);
    }
    tables.push(table);
    Ok(tables)
}

/// # Errors
/// As the functions of [`mod@super::scaling`].
pub fn scaling(effort: Effort) -> Result<Vec<Table>> {
    let columns = [("one CPU, M/s", 2), ("two CPUs, M/s", 2), ("times", 2)];
    let mut table = Table::new("scaling", "packets in test runs, millions a second", &columns);
    table.plotted = 2;
    for scaling::Scaling { packets, one, two, gain } in scaling::measure(effort)? {
        table.row(packets, [one, two, gain].map(Cell::Spread));
    }
    let title = "packets of one source that two CPUs let in, over what its limit allows";
    let mut exact = Table::new("scaling-exactness", title, &[("ratio", 5)]);
    exact.row("1,000,000 a second", [Cell::Spread(scaling::exactness(effort.rounds.min(FEW))?)]);
    Ok(vec![table, exact])
}

/// Of what takes a second.
const FEW: u32 = 10;

/// # Errors
/// As the functions of [`mod@super::control`].
pub fn control(rounds: u32) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for control::Order { order, of, took } in control::measure(rounds)? {
        let name = format!("control-{}", order.replace(' ', "-"));
        if tables.last().is_none_or(|table| table.name != name) {
            tables.push(Table::new(name, format!("{order}: the whole command"), &[("ms", 1)]));
        }
        if let Some(table) = tables.last_mut() {
            table.row(of, [Cell::Spread(took)]);
        }
    }
    let columns =
        [("own memory, MiB", 1), ("with files, MiB", 1), ("at most, MiB", 1), ("kernel's table, MiB", 1)];
    let mut memory = Table::new("control-memory", "what the agent takes up", &columns);
    for control::Agent { blocks, anonymous, resident, peak, table } in control::memory()? {
        let cells = [anonymous, resident, peak, table].map(|bytes| Cell::Number(bytes as f64 / MEBIBYTE));
        memory.row(format!("{blocks} blocks"), cells);
    }
    tables.push(memory);
    Ok(tables)
}
