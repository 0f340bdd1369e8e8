//! Nanoseconds over a bare `XDP_DROP`, for each frame that matters: IPv4 and IPv6, with and without a VLAN tag, small tables and full ones.
//!
//! Where maps and programs come to lie makes a difference of some nanoseconds either way, so everything is loaded several times, and what is
//! shown is the spread over all rounds of all loads. `xdp-filter` is measured as it runs: behind its dispatcher.

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
use crate::bpf;
use crate::bpf::random_sources::bare_drop;
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
    ("to another port", 9, ["192.0.2.1", "2001:db8::1"], Unguarded),
    ("stranger", PORT, ["192.0.2.1", "2001:db8::1"], NotAllowed),
    ("blocked", PORT, ["10.0.0.9", "fd00:77::9"], Blocked),
    ("allowed", PORT, ["10.0.0.7", "fd00:77::7"], Allowed),
    ("over its limit", LIMITED_PORT, ["10.0.0.7", "fd00:77::7"], PacketRate),
];
const PORT: u16 = 8000;
const LIMITED_PORT: u16 = 8001;

/// # Errors
/// When the kernel refuses something, or a frame does not become what it should.
pub fn measure(size: Size, Effort { rounds, packets }: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let network = Network::new()?;
    let host = network.host("filter", 1, &[])?;
    let cases = cases();
    let mut measured = vec![[Vec::new(), Vec::new(), Vec::new()]; cases.len()];
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
        let guards = [small.datapath.program()?.descriptor, full.datapath.program()?.descriptor];
        for _ in 0..rounds.div_ceil(LOADS) {
            for (case, [of_small, of_full, of_filter]) in cases.iter().zip(&mut measured) {
                let time = |program: BorrowedFd<'_>| {
                    Ok::<_, anyhow::Error>(f64::from(bpf::time(program, &case.frame, packets)?))
                };
                let below = time(bare.as_fd())?;
                of_small.push(time(guards[0])? - below);
                of_full.push(time(guards[1])? - below);
                if case.reason == NotAllowed {
                    of_filter.push(time(filter.as_fd())? - below);
                }
            }
        }
    }
    let row = |(case, [small, full, filter]): (&Case, [Vec<f64>; 3])| Row {
        frame: case.name.clone(),
        small: Spread::of(small),
        full: Spread::of(full),
        xdp_filter: (!filter.is_empty()).then(|| Spread::of(filter)),
    };
    Ok(cases.iter().zip(measured).map(row).collect())
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
