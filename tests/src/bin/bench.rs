//! Measures what guard costs on this machine, and prints it. `cargo xtask bench` builds and runs it.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use guard_tests::bench::cost::{Cost, Effort, Measured, Size};
use guard_tests::bench::{cost, flood, goodput, load, machine, memory, preallocation};
use guard_userspace::datapath::Capacities;

#[derive(Parser)]
#[command(name = "guard-bench", about)]
struct Arguments {
    /// Blocked addresses in the full tables
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u32,
    /// Prefixes of the policy in the full tables
    #[arg(long, default_value_t = 100_000)]
    prefixes: u32,
    /// Rounds of each measurement; medians are printed, with the quartiles
    #[arg(long, default_value_t = 25)]
    rounds: u32,
    /// Packets of each kind in each round
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
    /// Seconds for which clients ask, in each round of goodput, which has fewer rounds: two of five
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// The flood of goodput, in percent of what one CPU can send. The clients need the same CPU
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100))]
    flood: u32,
    /// What to measure; all of it, if nothing is said
    #[arg(value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How long a policy and blocks take until they are live
    Load,
    /// Nanoseconds a packet
    Packet,
    /// A table of blocks that is allocated at once against one that grows
    Preallocation,
    /// What the kernel takes for the tables
    Memory,
    /// A flood of strangers, against nftables, iptables and xdp-filter
    Flood,
    /// What allowed clients get while a flood runs, against the same
    Goodput,
}

fn main() -> Result<()> {
    let Arguments { blocks, prefixes, rounds, packets, seconds, flood, parts } = Arguments::parse();
    let (size, effort) = (Size { blocks, prefixes }, Effort { rounds, packets });
    let parts = if parts.is_empty() { Part::value_variants() } else { &parts };
    println!("{}\n", machine());
    for part in parts {
        match part {
            Part::Load => print_load(size)?,
            Part::Packet => print_costs(size, effort)?,
            Part::Preallocation => print_preallocation(size, effort)?,
            Part::Memory => print_memory(size)?,
            Part::Flood => print_flood(size, effort)?,
            Part::Goodput => {
                print_goodput(size, rounds, Duration::from_secs(seconds), f64::from(flood) / 100.0)?
            }
        }
    }
    println!("{}", machine());
    Ok(())
}

/// Prefixes that all of the filters take: nftables takes seconds for more.
const MOST_PREFIXES: u32 = 10_000;
/// A frame of a flood takes some hundred nanoseconds; there are to be enough of them.
const FLOOD: u32 = 4;

fn print_flood(size: Size, Effort { rounds, packets }: Effort) -> Result<()> {
    let size = Size { prefixes: size.prefixes.min(MOST_PREFIXES), ..size };
    println!(
        "a flood of strangers, {} prefixes allowed, {} addresses blocked (guard): nanoseconds a frame, its sending included",
        size.prefixes, size.blocks
    );
    for flood::Row { filter, nanoseconds, ratio } in flood::measure(size, rounds, packets * FLOOD)? {
        println!("  {filter:<28}  {nanoseconds:>20.0}  {ratio:>18.2}");
    }
    println!();
    Ok(())
}

fn print_goodput(size: Size, rounds: u32, time: Duration, share: f64) -> Result<()> {
    let size = Size { prefixes: size.prefixes.min(MOST_PREFIXES), ..size };
    let effort = goodput::Effort { rounds: (rounds * 2).div_ceil(5), time, share };
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let goodput::Goodput { pace, rows } =
        goodput::measure(size, effort, &own.with_file_name("guard-streaming-server"))?;
    println!(
        "allowed clients during a flood of {:.0} thousand frames a second; {} prefixes allowed, {} addresses blocked (guard); \
         {} rounds of {time:?}",
        pace / 1e3,
        size.prefixes,
        size.blocks,
        effort.rounds
    );
    println!(
        "  {:<28}  {:>20}  {:>14}  {:>22}  {:>20}  {:>20}  {:>20}",
        "", "frames/s, thousands", "received, %", "requests/s", "p50, ms", "p99, ms", "longest stall, ms"
    );
    for row in rows {
        let goodput::Row { filter, flooded, offered, received, requests, p50, p99, stall } = row;
        let (offered, received) = match flooded {
            true => (format!("{:.0}", offered.scaled(1e-3)), format!("{received:.0}")),
            false => ("none".into(), String::new()),
        };
        println!(
            "  {filter:<28}  {offered:>20}  {received:>14}  {requests:>22.0}  {p50:>20.2}  {p99:>20.2}  {stall:>20.0}"
        );
    }
    println!();
    Ok(())
}

fn print_load(size: Size) -> Result<()> {
    let load::Load { compiled, published, blocked } = load::measure(size)?;
    println!("until live: {} prefixes and {} blocks", size.prefixes, size.blocks);
    println!("  policy read and compiled  {compiled:>9.1?}");
    println!("  policy live               {published:>9.1?}");
    println!("  blocks live               {blocked:>9.1?}\n");
    Ok(())
}

fn print_costs(size: Size, effort: Effort) -> Result<()> {
    println!("a packet: nanoseconds, and over a bare XDP_DROP of the same round");
    println!(
        "  {:<34}  {:<6}  {:^36}  {:^36}  {:^16}",
        "", "source", "small tables", "full tables", "full over small"
    );
    for Cost { packet, hot, small, full, growth } in cost::measure(size, effort)? {
        let cell = |Measured { nanoseconds, ratio }| format!("{nanoseconds:>18.0}{ratio:>18.2}");
        let small = small.map_or_else(|| "-".into(), cell);
        let growth = growth.map_or_else(|| "-".into(), |growth| format!("{growth:.2}"));
        let source = if hot { "same" } else { "new" };
        println!("  {packet:<34}  {source:<6}  {small:>36}  {:>36}  {growth:>16}", cell(full));
    }
    println!();
    Ok(())
}

fn print_preallocation(size: Size, effort: Effort) -> Result<()> {
    println!(
        "a table of blocks with room for {}: look-up of a new key each time, nanoseconds",
        preallocation::ROOM
    );
    println!(
        "  {:>9}  {:<13}  {:>9}  {:>10}  {:>18}  {:>18}",
        "entries", "allocated", "filled in", "memory", "hit", "miss"
    );
    for entries in [10_000, size.blocks] {
        for table in preallocation::measure(entries, effort)? {
            let preallocation::Table { preallocated, entries, filled_in, bytes, hit, miss } = table;
            let when = if preallocated { "at once" } else { "when written" };
            let (filled_in, memory) = (format!("{filled_in:.1?}"), mebibytes(bytes));
            println!("  {entries:>9}  {when:<13}  {filled_in:>9}  {memory:>10}  {hit:>18.0}  {miss:>18.0}");
        }
    }
    println!();
    Ok(())
}

/// Smaller tables are only in the sum.
const SHOWN: u64 = 64 << 10;

fn print_memory(size: Size) -> Result<()> {
    let million = Capacities { sources: 1_000_000, ..Capacities::default() };
    for (what, capacities) in
        [("by default", Capacities::default()), ("with room for a million sources", million)]
    {
        println!("kernel memory of the tables {what}");
        let tables = memory::of_tables(capacities)?;
        for table in tables.iter().filter(|table| table.bytes >= SHOWN) {
            println!("  {:<16}  {:>10}", table.what, mebibytes(table.bytes));
        }
        println!("  {:<16}  {:>10}", "all", mebibytes(tables.iter().map(|table| table.bytes).sum()));
    }
    println!("what they grow by");
    for memory::Memory { what, entries, bytes } in memory::of_prefixes(size)? {
        println!(
            "  {entries:>7} {what:<24}  {:>10}  {:>4} bytes each",
            mebibytes(bytes),
            bytes / entries.max(1)
        );
    }
    println!();
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
