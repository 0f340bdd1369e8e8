//! What becomes of later fragments, in any order and of anybody: the decision over tables in memory.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use guard_common::abi::{Block, End};
use guard_common::{Action, Reason, Verdict};
use guard_proof::frame::{Frame, Transport};
use guard_userspace::memory::Memory;
use guard_userspace::{config, plan};
use ipnet::IpNet;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;
const CLIENTS: [&str; 2] = ["10.0.0.9", "fd00::9"];
const STRANGERS: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// Bytes of a datagram in a fragment, and what a fragment of that is on the wire at least.
const SIZE: usize = 1400;
const BURST: u64 = 64 << 10;
const POLICY: &str = r#"
[[service]]
name = "limited"
ports = [8000]
protocols = ["tcp", "udp"]
allow = ["10.0.0.0/8", "fd00::/16"]
limits = "client"

[[service]]
name = "open"
ports = [8001]
protocols = ["udp"]
allow = ["10.0.0.0/8", "fd00::/16"]

[[service]]
name = "watched"
ports = [9000]
protocols = ["udp"]
mode = "monitor"
allow = ["10.0.0.0/8", "fd00::/16"]
limits = "client"

[trusted]
prefixes = ["172.16.0.0/12"]

[limits.client]
bytes_per_second = 1024
byte_burst = 65536
packets_per_second = 1
packet_burst = 1000
"#;

fn memory(policy: &str) -> Result<Memory> {
    let policy = config::parse(policy, "guard.toml")?.policy;
    Ok(Memory::new(plan::compile(&policy, &BTreeMap::new())?))
}

fn datagram(source: &str, port: u16, length: usize) -> Frame {
    let transport = Transport::Udp { source_port: 40_000, port };
    Frame { payload: vec![0x55; length], ..Frame::new(source, transport) }
}

/// The fragments of a datagram of so many bytes, in their order.
fn parts(source: &str, port: u16, length: usize, identification: u16) -> Vec<Vec<u8>> {
    let parts = datagram(source, port, length).fragments(SIZE, identification);
    parts.iter().map(Frame::build).collect()
}

struct World {
    memory: Memory,
    now: u64,
}

impl World {
    fn new() -> Result<Self> {
        Ok(Self { memory: memory(POLICY)?, now: NOW })
    }

    fn judge(&mut self, frame: &[u8]) -> Verdict {
        self.memory.judge(frame, self.now, &mut ())
    }

    fn reasons<'a>(&mut self, frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Reason> {
        frames.into_iter().map(|frame| self.judge(frame).reason).collect()
    }

    fn block(&mut self, net: &str, host: End) -> Result<()> {
        let block = Block { host_until: host, services_until: End::FOREVER, dropped: 0 };
        self.memory.block(net.parse::<IpNet>()?, block);
        Ok(())
    }
}

#[test]
fn later_fragments_have_the_fate_of_the_first() -> Result<()> {
    use Reason::{Allowed, Fragment, NotAllowed, Trusted};
    let cases = [
        ("a client", CLIENTS[0], 8000, Allowed, Allowed),
        ("a client, IPv6", CLIENTS[1], 8000, Allowed, Allowed),
        ("a stranger", STRANGERS[0], 8000, NotAllowed, NotAllowed),
        ("a stranger, IPv6", STRANGERS[1], 8000, NotAllowed, NotAllowed),
        ("a stranger at a service that only monitors", STRANGERS[0], 9000, NotAllowed, NotAllowed),
        ("one trusted", "172.16.0.1", 8000, Trusted, Trusted),
        ("another port", STRANGERS[0], 53, Reason::Unguarded, Fragment),
        ("another port, IPv6", STRANGERS[1], 53, Reason::Unguarded, Fragment),
    ];
    for (name, source, port, first, later) in cases {
        let mut world = World::new()?;
        let frames = parts(source, port, 4000, 7);
        let verdicts: Vec<_> = frames.iter().map(|frame| world.judge(frame)).collect();
        let reasons: Vec<_> = verdicts.iter().map(|verdict| verdict.reason).collect();
        assert_eq!(reasons, [first, later, later], "{name}");
        let same = |verdict: &Verdict| (verdict.action, verdict.service);
        assert!(verdicts.iter().all(|verdict| same(verdict) == same(&verdicts[0])), "{name}: {verdicts:?}");
    }
    Ok(())
}

#[test]
fn a_fragment_belongs_to_one_packet_alone() -> Result<()> {
    let mut world = World::new()?;
    assert_eq!(world.reasons(&parts(STRANGERS[0], 8000, 2000, 7)), [Reason::NotAllowed; 2]);
    let first = parts(CLIENTS[0], 8000, 2000, 7);
    assert_eq!(world.reasons(&first[..1]), [Reason::Allowed]);
    // Of another number, protocol or destination nothing is known.
    let other_number = parts(CLIENTS[0], 8000, 2000, 8);
    let tcp = Frame {
        payload: vec![0; 2000],
        ..Frame::new(CLIENTS[0], Transport::Tcp { source_port: 1, port: 8000, flags: 0 })
    };
    let other_protocol: Vec<_> = tcp.fragments(SIZE, 7).iter().map(Frame::build).collect();
    let elsewhere = Frame { destination: "10.0.0.77".parse()?, ..datagram(CLIENTS[0], 8000, 2000) };
    let elsewhere: Vec<_> = elsewhere.fragments(SIZE, 7).iter().map(Frame::build).collect();
    for other in [&other_number[1..], &other_protocol[1..], &elsewhere[1..]] {
        assert_eq!(world.reasons(other), [Reason::Fragment]);
    }
    assert_eq!(world.reasons(&first[1..]), [Reason::Allowed]);
    Ok(())
}

#[test]
fn what_is_known_of_a_first_fragment_ends_when_linux_gives_up() -> Result<()> {
    for (source, waits) in [(STRANGERS[0], 30), (STRANGERS[1], 60)] {
        let mut world = World::new()?;
        let frames = parts(source, 8000, 2000, 7);
        assert_eq!(world.reasons(&frames[..1]), [Reason::NotAllowed]);
        world.now += waits * SECOND;
        assert_eq!(world.reasons(&frames[1..]), [Reason::NotAllowed], "{source}: Linux may still wait");
        world.now += 2 * SECOND;
        assert_eq!(world.reasons(&frames[1..]), [Reason::Fragment], "{source}: Linux has given up");
    }
    Ok(())
}

#[test]
fn blocks_hold_for_later_fragments() -> Result<()> {
    for (client, net) in [(CLIENTS[0], "10.0.0.0/24"), (CLIENTS[1], "fd00::9/128")] {
        for (port, host, expected) in [
            (8000, End::NONE, Reason::Blocked),
            (8000, End::FOREVER, Reason::Blocked),
            (53, End::FOREVER, Reason::Blocked),
            (53, End::NONE, Reason::Fragment),
        ] {
            let mut world = World::new()?;
            let frames = parts(client, port, 2000, 7);
            world.reasons(&frames[..1]);
            world.block(net, host)?;
            let verdict = world.judge(&frames[1]);
            assert_eq!(verdict.reason, expected, "{client} to {port}, {host:?}");
            let dropped = expected.drops();
            assert_eq!(verdict.action, if dropped { Action::Drop } else { Action::Pass });
        }
        // Of nothing that was seen before.
        let mut world = World::new()?;
        world.block(net, End::FOREVER)?;
        let verdict = world.judge(&parts(client, 8000, 2000, 7)[1]);
        assert_eq!((verdict.reason, verdict.action), (Reason::Blocked, Action::Drop));
        // At a service that only monitors.
        let mut world = World::new()?;
        let frames = parts(client, 9000, 2000, 7);
        world.block(net, End::NONE)?;
        assert_eq!(world.judge(&frames[0]).action, Action::WouldDrop);
        assert_eq!(world.judge(&frames[1]).action, Action::WouldDrop);
        world.block(net, End::FOREVER)?;
        assert_eq!(world.judge(&frames[1]).action, Action::Drop);
    }
    Ok(())
}

/// Linux ignores a second first fragment that says no more than the one it has. So that one gives no better fate.
#[test]
fn a_second_first_fragment_takes_nobody_out_of_a_limit() -> Result<()> {
    for client in CLIENTS {
        for port in [53, 8001] {
            let mut world = World::new()?;
            let mut through = 0;
            for number in 0..10 {
                let frames = parts(client, 8000, 60_000, number);
                let other = parts(client, port, 60_000, number).swap_remove(0);
                // Where the first one is dropped, Linux takes the other.
                let is_first = world.judge(&frames[0]).action == Action::Pass;
                world.judge(&other);
                let later = frames[1..].iter().filter(|frame| world.judge(frame).action == Action::Pass);
                let later: usize = later.map(Vec::len).sum();
                if is_first {
                    through += frames[0].len() + later;
                }
            }
            assert!(through as u64 <= BURST, "{client}, {port}: {through} bytes");
        }
    }
    Ok(())
}

/// What was dropped once may be sent again, and its client is let in then.
#[test]
fn the_last_first_fragment_of_a_client_counts_where_linux_had_none() -> Result<()> {
    let mut world = World::new()?;
    let frames = parts(CLIENTS[0], 8000, 60_000, 7);
    while world.judge(&frames[0]).reason == Reason::Allowed {}
    assert_eq!(world.reasons(&frames[1..3]), [Reason::ByteRate; 2]);
    world.now += 20 * SECOND;
    assert_eq!(world.reasons(&frames[..3]), [Reason::Allowed; 3]);
    Ok(())
}

/// Fragments of which nothing is known, from so many networks, within the time that Linux waits.
fn strays(v6: bool, networks: u64, seconds: u64) -> Result<u64> {
    let mut world = World::new()?;
    let (mut kept, count) = (0, 10_000);
    for number in 0..count {
        let network = number % networks;
        let source = if v6 {
            format!("2001:db8:{network:x}::{number:x}")
        } else {
            format!("{}.{}.{}.{}", 11 + (network >> 16), network >> 8 & 255, network & 255, number & 255)
        };
        let frame = parts(&source, 8000, 2000, number as u16).swap_remove(1);
        world.now = NOW + number * seconds * SECOND / count;
        if world.judge(&frame).action == Action::Pass {
            kept += frame.len() as u64 + 2048;
        }
    }
    Ok(kept)
}

#[test]
fn fragments_of_which_nothing_is_known_never_fill_the_queue_of_linux() -> Result<()> {
    const QUARTER: u64 = 1 << 20;
    for (v6, waits) in [(false, 30), (true, 60)] {
        let (one, many) = (strays(v6, 1, waits)?, strays(v6, 5000, waits)?);
        println!("IPv6: {v6}: {one} bytes of one network, {many} of many");
        assert!(many <= QUARTER && many > QUARTER / 2, "{many}");
        assert!(one <= QUARTER / 3 && one > QUARTER / 6, "{one}");
    }
    Ok(())
}

#[test]
fn a_policy_that_only_monitors_drops_no_fragment() -> Result<()> {
    let policy = "[[service]]\nname = \"a\"\nports = [8000]\nmode = \"monitor\"\nallow = [\"10.0.0.0/8\"]\n";
    let mut memory = memory(policy)?;
    let mut seen = HashMap::new();
    for number in 0..2000 {
        let verdict = memory.judge(parts(STRANGERS[0], 1, 2000, number)[1].as_slice(), NOW, &mut ());
        *seen.entry((verdict.reason, verdict.action)).or_insert(0) += 1;
    }
    let kinds: Vec<_> = seen.keys().copied().collect();
    assert!(seen[&(Reason::FragmentRate, Action::WouldDrop)] > 1000, "{seen:?}");
    assert!(kinds.len() == 2 && seen.contains_key(&(Reason::Fragment, Action::Pass)), "{seen:?}");
    Ok(())
}

/// The datagrams of a client without limits arrive in whatever order: those before their first one are given back.
#[test]
fn a_client_whose_fragments_come_in_reverse_is_not_held_up() -> Result<()> {
    for client in CLIENTS {
        let mut world = World::new()?;
        for number in 0..300 {
            let frames = parts(client, 8001, 60_000, number);
            let reasons = world.reasons(frames.iter().rev());
            assert!(reasons.iter().all(|reason| !reason.drops()), "{client}, {number}: {reasons:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In whatever order a client sends its fragments, no more bytes of them become datagrams than its limit says.
    #[test]
    fn no_order_of_fragments_gets_more_through_than_the_limit(
        lengths in prop::collection::vec(1usize..60_000, 1..20),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
        client in prop::sample::select(CLIENTS.to_vec()),
        interleaved in any::<bool>(),
    ) {
        let mut world = World::new().unwrap();
        let mut frames: Vec<(usize, Vec<u8>)> = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let mut own: Vec<_> = parts(client, 8000, *length, number as u16).into_iter().map(|frame| (number, frame)).collect();
            if !interleaved {
                for (at, index) in order.iter().enumerate().take(own.len()) {
                    let with = index.index(own.len());
                    own.swap(at, with);
                }
            }
            frames.extend(own);
        }
        if interleaved {
            for (at, index) in order.iter().enumerate().take(frames.len()) {
                let with = index.index(frames.len());
                frames.swap(at, with);
            }
        }
        let whole: Vec<usize> = lengths.iter().enumerate().map(|(number, length)| parts(client, 8000, *length, number as u16).len()).collect();
        let mut arrived = vec![(0, 0u64); lengths.len()];
        for (number, frame) in &frames {
            if world.judge(frame).action == Action::Pass {
                arrived[*number].0 += 1;
                arrived[*number].1 += frame.len() as u64;
            }
        }
        let complete = arrived.iter().zip(&whole).filter(|((parts, _), whole)| parts == *whole);
        let bytes: u64 = complete.map(|((_, bytes), _)| bytes).sum();
        prop_assert!(bytes <= BURST, "{bytes} bytes of complete datagrams");
    }
}
