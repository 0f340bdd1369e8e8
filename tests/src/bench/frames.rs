//! Nanoseconds over a bare `XDP_DROP`, for each frame that matters: IPv4 and IPv6, with and without a VLAN tag, small tables and full ones.
//!
//! Where maps and programs come to lie makes a difference of some nanoseconds either way, so everything is loaded several times, and what is
//! shown is the spread over all rounds of all loads. `xdp-filter` is measured as libxdp loads it: behind its dispatcher, if the kernel takes that.
//!
//! Any other program can be measured beside them, on strangers, once somebody has loaded it. It is loaded only once.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use guard_common::Reason::{self, Allowed, Blocked, NotAllowed, NotIp, PacketRate, Unguarded};
use guard_common::abi::{Block, End};
use guard_userspace::datapath::Options;
use ipnet::IpNet;

use super::cost::{Effort, Size};
use super::filters::XdpFilter;
use super::spread::Spread;
use super::stay_on_one_cpu;
use crate::bpf::random_sources::bare_drop;
use crate::bpf::{self, Program};
use crate::frame::Frame;
use crate::kernel::{self, Kernel};
use crate::large;
use crate::net::Network;

/// What a frame costs over a bare drop, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Row {
    pub frame: String,
    pub small: Spread,
    pub full: Spread,
    /// xdp-filter that drops all but a list, which is empty. It looks at strangers only.
    pub xdp_filter: Option<Spread>,
    /// The program that was loaded before, if it drops this frame of a stranger.
    pub loaded: Option<Spread>,
}

const LOADS: u32 = 5;
const XDP_DROP: u32 = 1;
const TAG: (u16, u16) = (0x8100, 7);

/// A frame and what becomes of it.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub frame: Vec<u8>,
    reason: Reason,
}

/// What happens, the port, the sources that it happens to, and the reason.
const CASES: [(&str, u16, [&str; 2], Reason); 5] = [
    ("to another port", 9, STRANGERS, Unguarded),
    ("stranger", PORT, STRANGERS, NotAllowed),
    ("blocked", PORT, ["10.0.0.9", "fd00:77::9"], Blocked),
    ("allowed", PORT, ["10.0.0.7", "fd00:77::7"], Allowed),
    ("over its limit", LIMITED_PORT, ["10.0.0.7", "fd00:77::7"], PacketRate),
];
const STRANGERS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PORT: u16 = 8000;
const LIMITED_PORT: u16 = 8001;

/// `program` is the kernel's number of one that is loaded, to be measured beside guard.
///
/// # Errors
/// When the kernel refuses something, a frame does not become what it should, or that program is none that drops strangers.
pub fn measure(size: Size, Effort { rounds, packets }: Effort, program: Option<u32>) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let cases = cases();
    let loaded = program.map(|number| Loaded::find(number, &cases)).transpose()?;
    let network = Network::new()?;
    let host = network.host("filter", 1, &[])?;
    let mut measured = vec![Measured::default(); cases.len()];
    for _ in 0..LOADS {
        let filter = XdpFilter::load(&host, "eth0", "ipv4,ipv6,tcp")?;
        let filter = filter.program()?;
        let bare = bare_drop(true)?;
        let mut small = kernel(Size { blocks: 0, prefixes: 1 })?;
        let mut full = kernel(size)?;
        for case in &cases {
            case.check(&mut small)?;
            case.check(&mut full)?;
            if case.reason == NotAllowed {
                let verdict = bpf::run(filter.as_fd(), &case.frame)?;
                ensure!(verdict == XDP_DROP, "xdp-filter answers {verdict} to {}", case.name);
            }
        }
        let programs = Programs {
            bare: bare.as_fd(),
            small: small.datapath.program()?.descriptor,
            full: full.datapath.program()?.descriptor,
            xdp_filter: filter.as_fd(),
            loaded: loaded.as_ref(),
        };
        for _ in 0..rounds.div_ceil(LOADS) {
            for (case, measured) in cases.iter().zip(&mut measured) {
                programs.time(case, packets, measured)?;
            }
        }
    }
    Ok(cases.iter().zip(measured).map(|(case, measured)| measured.row(case)).collect())
}

/// A program that is there already, whoever loaded it.
struct Loaded {
    program: Program,
    /// The strangers' frames that it drops, by their names. What it does otherwise cannot be compared.
    dropped: Vec<String>,
}

impl Loaded {
    fn find(number: u32, cases: &[Case]) -> Result<Self> {
        let program = Program::of_number(number)?;
        let mut dropped = Vec::new();
        for case in cases.iter().filter(|case| case.reason == NotAllowed) {
            if bpf::run(program.as_fd(), &case.frame)? == XDP_DROP {
                dropped.push(case.name.clone());
            }
        }
        let [v4, v6] = STRANGERS;
        ensure!(
            !dropped.is_empty(),
            "program {number} answers XDP_DROP to no TCP segment from {v4} or {v6} to port {PORT}"
        );
        Ok(Self { program, dropped })
    }

    fn drops(&self, case: &Case) -> bool {
        self.dropped.contains(&case.name)
    }
}

/// What is timed in a round.
struct Programs<'a> {
    bare: BorrowedFd<'a>,
    small: BorrowedFd<'a>,
    full: BorrowedFd<'a>,
    xdp_filter: BorrowedFd<'a>,
    loaded: Option<&'a Loaded>,
}

impl Programs<'_> {
    /// Times those that are to judge this frame, one after the other.
    fn time(&self, case: &Case, packets: u32, measured: &mut Measured) -> Result<()> {
        let time = |program: BorrowedFd<'_>| bpf::time(program, &case.frame, packets).map(f64::from);
        let below = time(self.bare)?;
        measured.small.push(time(self.small)? - below);
        measured.full.push(time(self.full)? - below);
        if case.reason == NotAllowed {
            measured.xdp_filter.push(time(self.xdp_filter)? - below);
        }
        if let Some(loaded) = self.loaded.filter(|loaded| loaded.drops(case)) {
            measured.loaded.push(time(loaded.program.as_fd())? - below);
        }
        Ok(())
    }
}

/// All rounds of one frame, in nanoseconds over the bare drop of the same round.
#[derive(Clone, Default)]
struct Measured {
    small: Vec<f64>,
    full: Vec<f64>,
    xdp_filter: Vec<f64>,
    loaded: Vec<f64>,
}

impl Measured {
    fn row(self, case: &Case) -> Row {
        let some = |times: Vec<f64>| (!times.is_empty()).then(|| Spread::of(times));
        Row {
            frame: case.name.clone(),
            small: Spread::of(self.small),
            full: Spread::of(self.full),
            xdp_filter: some(self.xdp_filter),
            loaded: some(self.loaded),
        }
    }
}

impl Case {
    /// Whether it becomes that.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, kernel: &mut Kernel) -> Result<()> {
        // The first one may be within its limit.
        kernel.judge(&self.frame)?;
        let verdict = kernel.judge(&self.frame)?;
        ensure!(verdict.reason == self.reason, "{} is {verdict:?}", self.name);
        Ok(())
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, port, sources, reason) in CASES {
        for (family, source) in ["IPv4", "IPv6"].into_iter().zip(sources) {
            for (tagged, vlan) in [("", vec![]), (", tagged", vec![TAG])] {
                let frame = Frame { vlan, ..Frame::segment(source, port) }.build();
                cases.push(Case { name: format!("{name}, {family}{tagged}"), frame, reason });
            }
        }
    }
    let mut arp = Frame::segment("192.0.2.1", 9).build();
    arp[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
    cases.push(Case { name: "ARP".into(), frame: arp, reason: NotIp });
    cases
}

/// Tables for the cases.
///
/// # Errors
/// When the kernel does not take them.
pub fn kernel(size: Size) -> Result<Kernel> {
    let mut kernel = Kernel::with(&Options::default())?;
    let policy = large::policy(size.prefixes).replacen("allow = [", "allow = [\"fd00:77::/32\",\n", 1)
        + &format!(
            "[[service]]\nname = \"limited\"\nports = [{LIMITED_PORT}]\nallow = [\"10.0.0.0/8\", \"fd00:77::/32\"]\n\
             limits = \"one\"\n[limits.one]\npackets_per_second = 1\npacket_burst = 1\n"
        );
    kernel.publish(&kernel::plan(&policy)?)?;
    let [v4, v6] = CASES[2].2;
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    let net = |text: &str| anyhow::Ok(IpNet::from(text.parse::<std::net::IpAddr>().context("no address")?));
    let mut blocks = large::blocks(size.blocks);
    blocks.extend([(net(v4)?, forever), (net(v6)?, forever)]);
    kernel.datapath.maps_mut().write_blocks(&blocks)?;
    Ok(kernel)
}
