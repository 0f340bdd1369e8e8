//! The program for devices without an Ethernet header: on each packet the kernel and the host agree, and each is judged as in an Ethernet frame.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use fastrand::Rng;
use guard_common::packet::WithoutEthernet;
use guard_common::{Reason, Verdict};
use guard_tests::frame::random::{self, Space};
use guard_tests::kernel::{self, Buffered, Kernel, NOW};
use guard_userspace::memory::Fragments;

/// How many packets. `GUARD_TEST_FRAMES` sets another number, for machines that are emulated.
const PACKETS: usize = 200_000;
const ETHERNET: usize = 14;
/// The kernel runs no program on less, and shows this one no more in a test run. From a device it gets each packet in one piece.
const LENGTHS: RangeInclusive<usize> = 14..=4096 - 256 - 320;

const POLICY: &str = r#"
[limits.some]
packets_per_second = 1
packet_burst = 1000
max_connections = 3
[[service]]
name = "web"
ports = ["8000-8010"]
protocols = ["tcp", "udp"]
allow = ["10.1.0.0/16", "8.0.0.0/16", "129.0.0.0/16", "fd00:1::/32"]
deny = ["10.1.7.0/24"]
limits = "some"
"#;

#[test]
fn kernel_and_host_agree_on_random_ip_packets() -> Result<()> {
    let packets = match std::env::var("GUARD_TEST_FRAMES") {
        Ok(packets) => packets.parse()?,
        Err(_) => PACKETS,
    };
    let plan = kernel::plan(POLICY)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let mut host = kernel::host(&plan, &[]);
    let sources = ["10.1.2.3", "10.1.7.1", "8.0.0.5", "129.0.0.5", "136.168.0.5", "fd00:1::7", "fd00:2::7"];
    let sources = sources.iter().map(|source| source.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let space = Space { sources, ports: vec![8000, 8010, 9000] };
    let mut rng = Rng::with_seed(14);
    let mut seen = std::collections::BTreeMap::new();
    let mut last = random::frame(&mut rng, &space);
    for number in 0..packets {
        let mut frame = random::frame(&mut rng, &space);
        if rng.bool() {
            frame = random::mutate(&mut rng, &last, &frame);
        }
        last.clone_from(&frame);
        // Sometimes from the Ethernet header on, or from within it: bytes that are no IP packet.
        let from = if rng.u8(..) < 16 { rng.usize(0..=ETHERNET) } else { ETHERNET };
        let Some(packet) = frame.get(from..).filter(|packet| LENGTHS.contains(&packet.len())) else {
            continue;
        };
        let here = host.judge(&WithoutEthernet(Buffered(packet)), NOW, &mut ());
        let there = kernel.datapath.run_ip_packet(packet)?;
        let head = &packet[..packet.len().min(96)];
        ensure!(there == kernel::returned(here), "packet {number}: {here:?}\n{head:02x?}");
        *seen.entry(here.reason.name()).or_insert(0_usize) += 1;
    }
    let mut counted = kernel.counters()?;
    counted.retain(|_, (_, counter)| counter.packets > 0);
    ensure!(&counted == host.counters(), "{counted:?}\n{:?}", host.counters());
    for reason in [Reason::Allowed, Reason::NotAllowed, Reason::Denied, Reason::Malformed, Reason::Unguarded]
    {
        ensure!(
            packets < PACKETS || seen.get(reason.name()).is_some_and(|count| *count >= 20),
            "{reason:?} was not reached: {seen:?}"
        );
    }
    ensure!(!seen.contains_key(Reason::NotIp.name()), "{seen:?}");
    Ok(())
}

#[test]
fn an_ip_packet_is_judged_as_in_an_ethernet_frame() -> Result<()> {
    let plan = kernel::plan(&POLICY.replace("limits = \"some\"\n", ""))?;
    let mut host = kernel::host(&plan, &[]);
    let sources = ["10.1.2.3", "10.1.7.1", "8.0.0.5", "fd00:1::7", "fd00:2::7"];
    let sources = sources.iter().map(|source| source.parse()).collect::<Result<Vec<IpAddr>, _>>()?;
    let space = Space { sources, ports: vec![8000, 9000] };
    let mut rng = Rng::with_seed(3);
    let mut compared = 0;
    for _ in 0..50_000 {
        let frame = random::frame(&mut rng, &space);
        let is_ip = matches!(
            (frame.get(12..ETHERNET), frame.get(ETHERNET).map(|first| first >> 4)),
            (Some([0x08, 0x00]), Some(4)) | (Some([0x86, 0xdd]), Some(6))
        );
        if !is_ip {
            continue;
        }
        // Each as if it were the first: a bound of bytes would be reached sooner with the Ethernet header.
        host.set_fragments(&Fragments::default());
        let within: Verdict = host.judge(&Buffered(&frame), NOW, &mut ());
        host.set_fragments(&Fragments::default());
        let alone = host.judge(&WithoutEthernet(Buffered(&frame[ETHERNET..])), NOW, &mut ());
        ensure!(within == alone, "{within:?}, and alone {alone:?}: {frame:02x?}");
        compared += 1;
    }
    ensure!(compared > 5_000, "{compared} packets were compared");
    Ok(())
}
