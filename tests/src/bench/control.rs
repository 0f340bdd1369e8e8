//! How long it takes until an order is obeyed: one block, many, and another policy, against ufw, nftables and ipset. And what the agent
//! takes up.
//!
//! All of it is the whole command, from its start to its end, as a script would wait for it. Each tool has a host of its own, and all but ufw,
//! which needs more, are started in the same manner; what either start takes is a row of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;

use super::spread::Spread;
use crate::guard::Guard;
use crate::large;
use crate::net::{Host, Network, feed};
use ufw::Ufw;

mod ufw;

/// What was ordered, of whom, and how long it took in milliseconds.
#[derive(Clone, Debug)]
pub struct Order {
    pub order: String,
    pub of: &'static str,
    pub took: Spread,
}

/// What the agent takes up, in bytes: the least of several looks.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    pub blocks: u32,
    /// Of its own: without files and what others share.
    pub anonymous: u64,
    pub resident: u64,
    /// The most that was resident until then.
    pub peak: u64,
    /// The kernel's table of blocks.
    pub table: u64,
}

/// Lists of this many addresses or prefixes take so long that fewer rounds do.
const LARGE: u32 = 100_000;
const ROUNDS_OF_LARGE: u32 = 3;

const NFT: &str = "add table inet t\nadd set inet t blocked { type ipv4_addr; }\n";
const IPSET: &str = "create blocked hash:ip maxelem 2000000";

/// Measures all orders, interleaved.
///
/// # Errors
/// When a tool is missing or does not do what it is told.
pub fn measure(rounds: u32) -> Result<Vec<Order>> {
    let network = Network::new()?;
    let host = |name, number: u8| network.host(name, number, &[&format!("10.78.0.{number}/16")]);
    let hosts = Hosts {
        guard: host("guard", 1)?,
        nft: host("nft", 2)?,
        ipset: host("ipset", 3)?,
        ufw: host("ufw", 4)?,
    };
    let guard = Guard::start(&hosts.guard, &policy(1))?;
    let ufw = Ufw::enable(&hosts.ufw)?;
    feed(hosts.nft.command("nft").args(["-f", "-"]), NFT)?;
    feed(hosts.ipset.command("ipset").arg("restore"), IPSET)?;
    let mut orders = Orders::default();
    one_block(&hosts, &guard, &ufw, rounds, &mut orders)?;
    for count in [10_000, 1_000_000] {
        many_blocks(&hosts, &guard, count, rounds, &mut orders)?;
    }
    for count in [10_000, LARGE] {
        another_policy(&hosts, &guard, count, rounds, &mut orders)?;
    }
    Ok(orders.0.into_iter().map(|(order, of, took)| Order { order, of, took: Spread::of(took) }).collect())
}

/// What is free is given back now and then: so many looks, a second apart.
const LOOKS: u32 = 15;

/// What the agent and its table of blocks take up, with none, ten thousand and a million.
///
/// # Errors
/// When guard does not run, or the kernel does not say.
pub fn memory() -> Result<Vec<Agent>> {
    let network = Network::new()?;
    let host = network.host("guard", 1, &["10.78.0.1/16"])?;
    let guard = Guard::start(&host, &policy(1))?;
    let mut rows = Vec::new();
    for blocks in [0, 10_000, 1_000_000] {
        if blocks > 0 {
            feed(&mut guard.command(&["block", "-"])?, &addresses(blocks))?;
        }
        let (mut anonymous, mut resident) = (u64::MAX, u64::MAX);
        for _ in 0..LOOKS {
            thread::sleep(Duration::from_secs(1));
            anonymous = anonymous.min(memory_of(&guard, "RssAnon")?);
            resident = resident.min(memory_of(&guard, "VmRSS")?);
        }
        let peak = memory_of(&guard, "VmHWM")?;
        let tables = guard.maps()?.memory()?;
        let table =
            tables.iter().find(|(name, _)| *name == "BLOCKS").context("there is no table of blocks")?.1;
        rows.push(Agent { blocks, anonymous, resident, peak, table });
    }
    Ok(rows)
}

/// In bytes.
fn memory_of(guard: &Guard<'_>, what: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("the kernel does not say")?;
    let kibibytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse()?;
    Ok(kibibytes << 10)
}

struct Hosts {
    guard: Host,
    nft: Host,
    ipset: Host,
    ufw: Host,
}

/// Milliseconds by order and tool, as they were first given.
#[derive(Default)]
struct Orders(Vec<(String, &'static str, Vec<f64>)>);

impl Orders {
    /// Gives the order and keeps how long it took.
    fn give(&mut self, order: &str, of: &'static str, command: &mut Command, input: &str) -> Result<()> {
        let begun = Instant::now();
        feed(command, input)?;
        self.keep(order, of, begun.elapsed());
        Ok(())
    }

    /// Has guard block a list, and returns after which time its last address was in the kernel: the command goes on until it is in the
    /// ledger, too.
    fn give_until_live(&mut self, order: &str, guard: &Guard<'_>, list: &str) -> Result<Duration> {
        let last: IpNet = list.lines().last().context("an empty list")?.parse::<IpAddr>()?.into();
        let maps = guard.maps()?;
        let begun = Instant::now();
        thread::scope(|scope| {
            let command =
                scope.spawn(|| self.give(order, "guard block -", &mut guard.command(&["block", "-"])?, list));
            while !command.is_finished() && maps.block(&last)?.is_none() {
                thread::sleep(LOOK);
            }
            let live = begun.elapsed();
            command.join().map_err(|_| anyhow!("the command panicked"))??;
            Ok(live)
        })
    }

    fn keep(&mut self, order: &str, of: &'static str, took: Duration) {
        let took = took.as_secs_f64() * 1e3;
        match self.0.iter_mut().find(|(known, tool, _)| known == order && *tool == of) {
            Some((.., times)) => times.push(took),
            None => self.0.push((order.into(), of, vec![took])),
        }
    }
}

/// Between two looks at the kernel's table.
const LOOK: Duration = Duration::from_millis(1);

/// The numbers of addresses that are in no list.
const MORE_THAN_ANY_LIST: u32 = 2_000_000;

fn one_block(
    hosts: &Hosts,
    guard: &Guard<'_>,
    ufw: &Ufw<'_>,
    rounds: u32,
    orders: &mut Orders,
) -> Result<()> {
    const ORDER: &str = "one block";
    for round in 0..rounds {
        let address = large::blocked(MORE_THAN_ANY_LIST + round);
        orders.give(ORDER, "true (what a start takes)", &mut hosts.guard.command("true"), "")?;
        orders.give(ORDER, "guard block", &mut guard.command(&["block", &address])?, "")?;
        let element = format!("add element inet t blocked {{ {address} }}");
        orders.give(ORDER, "nft add element", hosts.nft.command("nft").arg(element), "")?;
        orders.give(
            ORDER,
            "ipset add",
            hosts.ipset.command("ipset").args(["add", "blocked", &address]),
            "",
        )?;
        orders.give(ORDER, "true (as ufw is started)", &mut ufw.start("true", &[]), "")?;
        orders.give(ORDER, "ufw deny from", &mut ufw.command(&["deny", "from", &address]), "")?;
    }
    Ok(())
}

fn many_blocks(hosts: &Hosts, guard: &Guard<'_>, count: u32, rounds: u32, orders: &mut Orders) -> Result<()> {
    let order = format!("{count} blocks");
    let list = addresses(count);
    let (mut elements, mut members) = (String::new(), String::new());
    for address in list.lines() {
        // Writing to a string cannot fail.
        let _ = write!(elements, "{address},");
        let _ = writeln!(members, "add blocked {address}");
    }
    let elements = format!("add element inet t blocked {{ {elements} }}\n");
    for _ in 0..rounds_of(count, rounds) {
        let live = orders.give_until_live(&order, guard, &list)?;
        orders.keep(&order, "guard block -, until live", live);
        feed(&mut guard.command(&["unblock", "-"])?, &list)?;
        orders.give(&order, "nft -f -", hosts.nft.command("nft").args(["-f", "-"]), &elements)?;
        feed(hosts.nft.command("nft").args(["flush", "set", "inet", "t", "blocked"]), "")?;
        orders.give(&order, "ipset restore", hosts.ipset.command("ipset").arg("restore"), &members)?;
        feed(hosts.ipset.command("ipset").args(["flush", "blocked"]), "")?;
    }
    Ok(())
}

fn another_policy(
    hosts: &Hosts,
    guard: &Guard<'_>,
    count: u32,
    rounds: u32,
    orders: &mut Orders,
) -> Result<()> {
    let order = format!("{count} prefixes");
    for round in 0..rounds_of(count, rounds) {
        // One prefix more or less, so that it is another one.
        let count = count + round % 2;
        fs::write(guard.policy_file(), policy(count)).context("cannot write the policy")?;
        orders.give(&order, "guard reload", &mut guard.command(&["reload"])?, "")?;
        orders.give(
            &order,
            "nft -f -",
            hosts.nft.command("nft").args(["-f", "-"]),
            &large::nft_rules(count),
        )?;
    }
    Ok(())
}

fn rounds_of(count: u32, rounds: u32) -> u32 {
    if count < LARGE { rounds } else { rounds.min(ROUNDS_OF_LARGE) }
}

fn policy(prefixes: u32) -> String {
    format!("[attach]\ninterfaces = [\"eth0\"]\n{}", large::policy(prefixes))
}

/// A line for each.
fn addresses(count: u32) -> String {
    (0..count).fold(String::new(), |text, number| text + &large::blocked(number) + "\n")
}
