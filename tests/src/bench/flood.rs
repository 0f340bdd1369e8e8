//! A flood of strangers, against guard and against what people use instead.
//!
//! Each filter has a host of its own at the end of a wire, with the same list of allowed prefixes. One CPU sends frames of random
//! sources and, in the interrupts between, receives and drops them, so the time of a frame is that of both; with a bare `XDP_DROP` it is what no
//! filter can save.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::cost::Size;
use super::spread::Spread;
use super::stay_on_one_cpu;
use crate::bpf::generator::{Generator, IDENTIFIED};
use crate::bpf::random_sources::bare_drop;
use crate::bpf::{self, Program};
use crate::frame::{Frame, Ipv4Fragment};
use crate::guard::Guard;
use crate::large;
use crate::net::{Host, Network};

/// What a filter cost.
#[derive(Clone, Debug)]
pub struct Row {
    pub filter: &'static str,
    pub nanoseconds: Spread,
    /// Over the bare drop of the same round.
    pub ratio: Spread,
}

/// A filter on a host.
struct Filter<'a> {
    name: &'static str,
    /// The number of its wire.
    wire: usize,
    _held: Held<'a>,
}

/// What keeps a filter where it is; the others end with their host.
enum Held<'a> {
    Program(#[expect(dead_code, reason = "held")] Program, #[expect(dead_code, reason = "held")] OwnedFd),
    Guard(#[expect(dead_code, reason = "held")] Guard<'a>),
    XdpFilter(#[expect(dead_code, reason = "held")] XdpFilter<'a>),
    Host,
}

/// xdp-filter, which lets nobody through. It pins its maps, which outlive the host.
pub(super) struct XdpFilter<'a> {
    host: &'a Host,
    interface: &'static str,
}

impl<'a> XdpFilter<'a> {
    /// # Errors
    /// When xdp-filter is missing or refuses.
    pub(super) fn load(host: &'a Host, interface: &'static str, features: &str) -> Result<Self> {
        let load = format!("load {interface} --mode native --policy deny --features {features}");
        run(host, "xdp-filter", &load, "")?;
        Ok(Self { host, interface })
    }

    /// What is attached: the dispatcher that calls it.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn program(&self) -> Result<Program> {
        let (_, text) = self.host.output("ip", &["-j", "link", "show", self.interface])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let number = links[0]["xdp"]["prog"]["id"].as_u64().context("there is no program")?;
        Program::of_number(u32::try_from(number)?)
    }
}

impl Drop for XdpFilter<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = run(self.host, "xdp-filter", &format!("unload {}", self.interface), "");
    }
}

/// The upper halves of the sources: none of them is allowed.
const SOURCES: [[u8; 2]; 8] = [[1, 2], [23, 9], [51, 77], [80, 1], [112, 200], [141, 3], [177, 66], [203, 5]];
/// Of the interface that receives.
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
const FILTERS: usize = 7;

/// Measures all filters, round by round.
///
/// # Errors
/// When a tool is missing, a filter lets a frame through or the network loses some.
pub fn measure(size: Size, rounds: u32, packets: u32) -> Result<Vec<Row>> {
    let network = Network::new()?;
    let sender = network.host("sender", 100, &[])?;
    let hosts: Vec<Host> =
        (0..FILTERS).map(|number| network.host("filter", 101 + number as u8, &[])).collect::<Result<_>>()?;
    for (number, host) in hosts.iter().enumerate() {
        wire(&sender, host, number)?;
    }
    let filters = install(&hosts, size)?;
    let generator = Generator::new()?;
    let frames: Vec<Vec<u8>> = SOURCES.map(frame).to_vec();
    let interfaces = sender.enter(|| {
        let index = |number| if_nametoindex(format!("wire{number}").as_str()).context("no such wire");
        (0..FILTERS).map(index).collect::<Result<Vec<_>>>()
    })?;
    let answered_before = hosts.iter().map(answered).collect::<Result<Vec<_>>>()?;
    let mut measured = vec![Vec::new(); filters.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (filter, measured) in filters.iter().zip(&mut measured) {
            let host = &hosts[filter.wire];
            let before = received(host)?;
            let took = sender.enter(|| {
                stay_on_one_cpu()?;
                let begun = Instant::now();
                for frame in &frames {
                    generator.send(frame, interfaces[filter.wire], packets / frames.len() as u32)?;
                }
                Ok(begun.elapsed())
            })?;
            let count = received(host)? - before;
            ensure!(count > u64::from(packets) * 9 / 10, "{}: {count} of {packets} arrived", filter.name);
            if round > 0 {
                measured.push(took.as_nanos() as f64 / count as f64);
            }
        }
    }
    for filter in &filters {
        let answered = answered(&hosts[filter.wire])? - answered_before[filter.wire];
        ensure!(answered == 0, "{}: {answered} SYNs of strangers came through", filter.name);
    }
    let bare = measured[0].clone();
    let row = |(filter, nanoseconds): (&Filter<'_>, Vec<f64>)| {
        let ratio = nanoseconds.iter().zip(&bare).map(|(above, below)| above / below).collect();
        Row { filter: filter.name, nanoseconds: Spread::of(nanoseconds), ratio: Spread::of(ratio) }
    };
    Ok(filters.iter().zip(measured).map(row).collect())
}

fn wire(sender: &Host, host: &Host, number: usize) -> Result<()> {
    let near = format!("wire{number}");
    sender.wire(&near, host, "up0")?;
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    for command in [&format!("link set up0 address {mac} up") as &str, "address add 198.18.0.1/16 dev up0"] {
        host.ip(command)?;
    }
    sender.ip(&format!("link set {near} up"))?;
    // With GRO on the driver polls, and frames arrive whether or not a program is attached.
    let (ok, said) = host.output("ethtool", &["-K", "up0", "gro", "on"])?;
    ensure!(ok, "{said}");
    Ok(())
}

fn frame([first, second]: [u8; 2]) -> Vec<u8> {
    Frame {
        source: [first, second, 0, 0].into(),
        destination: [198, 18, 0, 1].into(),
        destination_mac: MAC,
        fragment: Ipv4Fragment { identification: IDENTIFIED, ..Ipv4Fragment::default() },
        ..Frame::default()
    }
    .build()
}

/// Frames that the interface has received, dropped ones included.
fn received(host: &Host) -> Result<u64> {
    let (_, text) = host.output("ip", &["-s", "-j", "link", "show", "up0"])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("the kernel does not count")
}

/// How many answers TCP has sent.
fn answered(host: &Host) -> Result<u64> {
    let (_, text) = host.output("cat", &["/proc/net/snmp"])?;
    let sent = text.lines().filter(|line| line.starts_with("Tcp:")).nth(1);
    // The place of OutRsts: nothing listens, so each SYN is answered by one.
    sent.and_then(|line| line.split(' ').nth(14)?.parse().ok()).context("the kernel does not count")
}

fn install(hosts: &[Host], size: Size) -> Result<Vec<Filter<'_>>> {
    let [bare, guard, xdp_filter, ingress, input, ipset_input, ipset_raw] = hosts else {
        anyhow::bail!("there is a host for each filter");
    };
    let filter = |name, wire, held| Filter { name, wire, _held: held };
    let allowed: Vec<String> = (0..size.prefixes).map(|number| format!("{}/25", network(number))).collect();
    let program = bare_drop(false)?;
    let link = bare.enter(|| bpf::attach(program.as_fd(), if_nametoindex("up0")?))?;

    let policy = format!("[attach]\ninterfaces = [\"up0\"]\n{}", large::policy(size.prefixes));
    let running = Guard::start(guard, &policy)?;
    running.maps()?.write_blocks(&large::blocks(size.blocks))?;

    let xdp_filter = XdpFilter::load(xdp_filter, "up0", "ipv4,tcp")?;
    let elements = allowed.join(",");
    for (host, chain) in [
        (ingress, "type filter hook ingress device up0 priority 0; policy drop"),
        (input, "type filter hook input priority 0; policy drop"),
    ] {
        let family = if chain.contains("device") { "netdev" } else { "ip" };
        let rules = format!(
            "table {family} guard {{\nset allowed {{\ntype ipv4_addr\nflags interval\nelements = {{ {elements} }}\n}}\n\
             chain guard {{\n{chain}\nip saddr @allowed accept\n}}\n}}\n"
        );
        run(host, "nft", "-f -", &rules)?;
    }
    let mut list = format!("create allowed hash:net maxelem {}\n", size.prefixes.max(65_536));
    for prefix in &allowed {
        // Writing to a string cannot fail.
        let _ = writeln!(list, "add allowed {prefix}");
    }
    for (host, rule) in [
        (ipset_input, "-A INPUT -i up0 -m set ! --match-set allowed src -j DROP"),
        (ipset_raw, "-t raw -A PREROUTING -i up0 -m set ! --match-set allowed src -j DROP"),
    ] {
        run(host, "ipset", "restore", &list)?;
        run(host, "iptables", rule, "")?;
    }
    Ok(vec![
        filter("bare XDP_DROP", 0, Held::Program(program, link)),
        filter("guard", 1, Held::Guard(running)),
        filter("xdp-filter, deny, no list", 2, Held::XdpFilter(xdp_filter)),
        filter("nftables, ingress", 3, Held::Host),
        filter("nftables, input", 4, Held::Host),
        filter("iptables INPUT, ipset", 5, Held::Host),
        filter("iptables raw, ipset", 6, Held::Host),
    ])
}

/// The network of the prefix of this number, as [`large::policy`] has it.
fn network(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits((10 << 24) + (number << 8))
}

fn run(host: &Host, program: &str, arguments: &str, input: &str) -> Result<()> {
    let mut command: Command = host.command(program);
    command.args(arguments.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    child.stdin.take().context("no way in")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
