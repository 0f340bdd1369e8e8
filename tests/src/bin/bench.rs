//! Measures what guard costs on this machine, prints it and writes it down. `cargo xtask bench` builds and runs it.

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use guard_tests::bench::cost::{Effort, Size};
use guard_tests::bench::machine;
use guard_tests::bench::report::{self, Goodput};

#[derive(Parser)]
#[command(name = "guard-bench", about, after_help = AFTER_HELP)]
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
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=100))]
    flood: u32,
    /// For frames: an XDP program that is loaded already, by the kernel's number of it. It is timed beside guard on each frame of a stranger that it drops
    #[arg(long, value_name = "NUMBER")]
    program: Option<u32>,
    /// Where each table goes as JSON and as a plot (SVG)
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// What to measure; all of it, if nothing is said
    #[arg(value_enum)]
    parts: Vec<Part>,
}

const AFTER_HELP: &str = "Examples:
  guard-bench flood goodput              two parts
  ip link show dev eth1                  the program of an interface: prog/xdp id 42
  guard-bench frames --program 42        that program beside guard and xdp-filter

Strangers' frames are TCP segments from 192.0.2.1 and 2001:db8::1 to port 8000, also with a VLAN tag. Each is repeated, so a program \
that remembers its sources answers from its memory. Where several programs share an interface, take the number of the dispatcher, which \
is what ip shows: a packet pays for it, too.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How long a policy and blocks take until they are live
    Load,
    /// Nanoseconds a packet
    Packet,
    /// The same as tables grow
    Sizes,
    /// Nanoseconds over a bare drop for each kind of frame, against xdp-filter and --program
    Frames,
    /// A table of blocks that is allocated at once against one that grows
    Preallocation,
    /// What the kernel takes for the tables
    Memory,
    /// A flood of strangers, against nftables, iptables and xdp-filter
    Flood,
    /// What allowed clients get while a flood runs, against the same
    Goodput,
    /// What a second CPU gives, and whether limits stay exact
    Scaling,
    /// How long commands take, against ufw, nftables and ipset; what the agent takes up
    Control,
}

fn main() -> Result<()> {
    let Arguments { blocks, prefixes, rounds, packets, seconds, flood, program, directory, parts } =
        Arguments::parse();
    let (size, effort) = (Size { blocks, prefixes }, Effort { rounds, packets });
    let goodput = Goodput { rounds: (rounds * 2).div_ceil(5), seconds, percent: flood };
    let parts = if parts.is_empty() { Part::value_variants() } else { &parts };
    ensure!(program.is_none() || parts.contains(&Part::Frames), "--program is for the part frames");
    println!("{}\n", machine());
    let measure = |part: Part| match part {
        Part::Load => report::load(size),
        Part::Packet => report::costs(size, effort),
        Part::Sizes => report::sizes(effort),
        Part::Frames => report::frames(size, effort, program),
        Part::Preallocation => report::preallocation(size, effort),
        Part::Memory => report::memory(size),
        Part::Flood => report::flood(size, effort),
        Part::Goodput => report::goodput(size, goodput),
        Part::Scaling => report::scaling(effort),
        Part::Control => report::control(rounds),
    };
    for part in parts {
        // On a thread of its own: some parts stay on one CPU.
        let tables = thread::scope(|scope| scope.spawn(|| measure(*part)).join())
            .map_err(|_| anyhow!("a measurement panicked"))??;
        let machine = machine();
        for table in tables {
            println!("{table}");
            table.write(&directory, &machine)?;
        }
    }
    println!("{}; tables and plots in {}", machine(), directory.display());
    Ok(())
}
