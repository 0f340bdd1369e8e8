//! Random and mutated frames through the kernel and the host, under random policies: equal verdicts, equal counters.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use fastrand::Rng;
use guard_common::abi::{Block, End, SourceKey};
use guard_common::{Address, Reason};
use guard_tests::frame::random::{self, Space};
use guard_tests::kernel::{self, Buffered, Kernel, NOW};
use guard_userspace::plan::Plan;
use ipnet::IpNet;

/// How many frames. `GUARD_TEST_FRAMES` sets another number, for machines that are emulated.
const FRAMES: usize = 1_000_000;
const FRAMES_A_POLICY: usize = 10_000;
/// However few frames there are.
const POLICIES: usize = 10;

#[test]
fn kernel_and_host_agree_on_random_frames() -> Result<()> {
    let seed = 1;
    let frames = match std::env::var("GUARD_TEST_FRAMES") {
        Ok(frames) => frames.parse()?,
        Err(_) => FRAMES,
    };
    let mut rng = Rng::with_seed(seed);
    let mut reasons = std::collections::BTreeMap::new();
    let policies = POLICIES.max(frames / FRAMES_A_POLICY);
    for round in 0..policies {
        let (policy, space) = policy(&mut rng);
        let plan = kernel::plan(&policy)?;
        let mut kernel = Kernel::new(Some(NOW))?;
        kernel.publish(&plan)?;
        let blocks = blocks(&mut rng, &space);
        kernel.block(&blocks)?;
        let mut host = kernel::host(&plan, &blocks);
        let open = connections(&mut rng, &space, &plan);
        kernel.datapath.maps_mut().write_connections(&open)?;
        open.iter().for_each(|(source, open)| host.set_connections(*source, *open));
        let mut last = random::frame(&mut rng, &space);
        for number in 0..frames / policies {
            let mut frame = random::frame(&mut rng, &space);
            if rng.bool() {
                frame = random::mutate(&mut rng, &last, &frame);
            }
            last.clone_from(&frame);
            let here = host.judge(&Buffered(&frame), NOW, &mut ());
            let there = kernel.datapath.run_frame(&frame)?;
            let head = &frame[..frame.len().min(160)];
            assert_eq!(
                there,
                kernel::returned(here),
                "seed {seed}, round {round}, frame {number}: {here:?}\n{head:02x?}…\n{policy}"
            );
            *reasons.entry(here.reason.name()).or_insert(0) += 1;
        }
        let mut counted = kernel.counters()?;
        counted.retain(|_, (_, counter)| counter.packets > 0);
        assert_eq!(&counted, host.counters(), "seed {seed}, round {round}\n{policy}");
    }
    println!("{reasons:?}");
    // A generator that never reaches a check proves nothing of it. The full run shows that this one does; fewer frames need not.
    for reason in Reason::ALL.into_iter().filter(|_| frames >= FRAMES) {
        assert!(
            reasons.get(reason.name()).is_some_and(|count| *count >= 20),
            "{reason:?} was not reached: {reasons:?}"
        );
    }
    Ok(())
}

/// A policy of some services, and the sources and ports that are near to it.
fn policy(rng: &mut Rng) -> (String, Space) {
    let mut policy = String::from(
        "[limits.some]\nmax_connections = 3\npackets_per_second = 1\nbytes_per_second = 1024\nbyte_burst = 65536\n",
    );
    let _ = writeln!(policy, "packet_burst = {}", rng.choice([2, 10, 50]).unwrap_or(1));
    let _ = writeln!(policy, "connections_per_second = 1\nconnection_burst = {}\n", rng.u32(1..20));
    let _ = writeln!(policy, "[limits.bytes]\nbytes_per_second = 1024\nbyte_burst = 65536\n");
    let mut space = Space { sources: Vec::new(), ports: Vec::new() };
    for service in 0..rng.u16(1..4) {
        let first = 8000 + service * 100;
        let last = first + rng.u16(0..20);
        space.ports.extend([first, last]);
        let mut allow: Vec<IpNet> = (0..rng.usize(1..6)).map(|_| net(rng)).collect();
        allow.sort();
        allow.dedup();
        let mut deny: Vec<IpNet> = (0..rng.usize(0..3)).filter_map(|_| longer(rng, &allow)).collect();
        deny.sort();
        deny.dedup();
        deny.retain(|net| !allow.contains(net));
        space.sources.extend(allow.iter().chain(&deny).map(IpNet::addr));
        let list = |nets: &[IpNet]| format!("{:?}", nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mode = if rng.u8(..) < 64 { "monitor" } else { "enforce" };
        let _ = writeln!(
            policy,
            "[[service]]\nname = \"s{service}\"\nports = [\"{first}-{last}\"]\nprotocols = [\"tcp\", \"udp\"]\nmode = \"{mode}\"\nallow = {}\ndeny = {}",
            list(&allow),
            list(&deny)
        );
        if rng.bool() {
            let _ = writeln!(policy, "limits = \"{}\"", if rng.bool() { "some" } else { "bytes" });
        }
        policy.push('\n');
    }
    // Of a range that no `deny` comes from, so that none is inside.
    let trusted: IpAddr = [172, 16, rng.u8(..), 1].into();
    space.sources.push(trusted);
    let _ = writeln!(
        policy,
        "[trusted]\nprefixes = [\"{trusted}/32\"]\n\n[source]\nipv4_prefix = {}\nipv6_prefix = {}",
        rng.u8(16..=32),
        rng.u8(40..=128)
    );
    (policy, space)
}

fn net(rng: &mut Rng) -> IpNet {
    let net: IpNet = if rng.bool() {
        IpNet::V4(ipnet::Ipv4Net::new_assert(
            [10, rng.u8(..4), rng.u8(..), rng.u8(..)].into(),
            rng.u8(8..=32),
        ))
    } else {
        let address = 0xfd00_u128 << 112 | rng.u128(..) >> 24;
        IpNet::V6(ipnet::Ipv6Net::new_assert(address.into(), rng.u8(16..=128)))
    };
    net.trunc()
}

/// A prefix within one of the list.
fn longer(rng: &mut Rng, nets: &[IpNet]) -> Option<IpNet> {
    let around = nets.get(rng.usize(..nets.len()))?;
    let length = rng.u8(around.prefix_len()..=around.max_prefix_len());
    IpNet::new(around.addr(), length).ok().map(|net| net.trunc())
}

/// Blocks of some of the sources, alone and as prefixes that do not lie within each other.
fn blocks(rng: &mut Rng, space: &Space) -> Vec<(IpNet, Block)> {
    let mut nets: Vec<IpNet> = Vec::new();
    for source in &space.sources {
        if rng.u8(..) < 64 {
            let length = if source.is_ipv4() { 32 } else { 128 };
            let length = if rng.bool() { length } else { length - rng.u8(1..8) };
            nets.extend(IpNet::new(*source, length).map(|net| net.trunc()));
        }
    }
    nets.sort_by_key(IpNet::prefix_len);
    let mut kept: Vec<IpNet> = Vec::new();
    for net in nets {
        if !kept.iter().any(|other| other.contains(&net)) {
            kept.push(net);
        }
    }
    let end = |time| End::not_before(time);
    let until = |rng: &mut Rng| {
        [End::NONE, end(NOW - 1_000_000_000), end(NOW), end(NOW + 1), End::FOREVER][rng.usize(..5)]
    };
    let block = |rng: &mut Rng| {
        let host_until = until(rng);
        Block { host_until, services_until: host_until.max(until(rng)), dropped: 0 }
    };
    kept.into_iter().map(|net| (net, block(rng))).collect()
}

/// Open connections of some of the sources, at each service.
fn connections(rng: &mut Rng, space: &Space, plan: &Plan) -> Vec<(SourceKey, u64)> {
    let mut open = Vec::new();
    for service in &plan.services {
        for source in &space.sources {
            open.push((SourceKey::new(service.id, &service.entry, Address::from(*source)), rng.u64(0..6)));
        }
    }
    // Two sources may share a key: the kernel and the host are told the same of it.
    open.sort_by_key(|(source, open)| (source.address().to_bytes(), source.service(), *open));
    open.dedup_by_key(|(source, _)| *source);
    open
}
