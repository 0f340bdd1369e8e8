//! Evidence and samples, over plain memory.

extern crate std;

use core::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::vec::Vec;

use super::*;
use crate::Address;
use crate::abi::{Service, ServiceId};
use crate::gcra::Rate;
use crate::plain::Plain;

const SECOND: u64 = 1_000_000_000;
const THRESHOLDS: Thresholds = Thresholds { connections: 10, refused: 100, limited: 100 };
const CLIENT: Address = Address::v4([10, 1, 2, 3]);
const PORT: u16 = 40_000;
const ACK: u8 = TcpFlags::ACK.0;

#[derive(Default)]
struct Memory {
    flows: HashSet<FlowKey>,
    suspicion: Plain,
    evidence: RefCell<HashMap<SourceKey, EvidenceState<Plain>>>,
    sampled: RefCell<HashMap<SampleKey, SampledState<Plain>>>,
    samples: RefCell<Vec<Sample>>,
    offences: RefCell<Vec<Offence>>,
}

impl Notes for Memory {
    type Word = Plain;

    fn is_established(&self, flow: &FlowKey) -> bool {
        self.flows.contains(flow)
    }

    fn suspicion(&self, _: &SourceKey) -> Option<Plain> {
        Some(self.suspicion.clone())
    }

    fn evidence(&self, source: &SourceKey) -> Option<EvidenceState<Plain>> {
        Some(self.evidence.borrow_mut().entry(*source).or_default().clone())
    }

    fn sampled(&self, key: &SampleKey) -> Option<SampledState<Plain>> {
        Some(self.sampled.borrow_mut().entry(*key).or_default().clone())
    }

    fn sample(&self, sample: Sample) {
        self.samples.borrow_mut().push(sample);
    }

    fn offence(&self, offence: Offence) {
        self.offences.borrow_mut().push(offence);
    }
}

fn source() -> SourceKey {
    SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), CLIENT)
}

/// Notes where the client has an established connection from [`PORT`].
fn with_a_connection() -> Memory {
    let flows = HashSet::from([FlowKey::new(CLIENT, PORT, ServiceId::new(1))]);
    Memory { flows, ..Memory::default() }
}

fn drop(reason: Reason) -> Sample {
    Sample {
        packets: 1,
        source: CLIENT.to_bytes(),
        source_port: PORT,
        port: 8000,
        protocol: TCP,
        service: 1,
        reason: reason as u8,
        flags: ACK,
        ..Sample::default()
    }
}

/// 100 packets at once, then 100 a second.
fn limits() -> Limits {
    Limits { packets: Rate::of_events(100, 100).unwrap(), ..Limits::default() }
}

fn note_at(notes: &Memory, packet: &Sample, now: u64) {
    let (source, limits) = (source(), limits());
    let accused = Accused { source: &source, thresholds: &THRESHOLDS, limits: Some(&limits) };
    note(notes, packet, Some(&accused), now);
}

/// Notes `count` packets, evenly from `from` to `to` nanoseconds.
fn note_all(notes: &Memory, packet: &Sample, count: u64, from: u64, to: u64) {
    for number in 0..count {
        note_at(notes, packet, from + (to - from) * number / count);
    }
}

#[test]
fn packets_of_a_connection_that_no_rule_allows_are_evidence_once_a_minute() {
    for reason in [Reason::NotAllowed, Reason::Denied] {
        let notes = with_a_connection();
        note_all(&notes, &drop(reason), 99, SECOND, 20 * SECOND);
        assert!(notes.offences.borrow().is_empty(), "{reason:?}");
        note_all(&notes, &drop(reason), 500, 20 * SECOND, 21 * SECOND);
        let found = notes.offences.borrow().clone();
        let [offence] = found.as_slice() else { panic!("{reason:?}: {found:?}") };
        let expected = (Some(OffenceKind::Refused), 100, SECOND);
        assert_eq!((offence.kind(), offence.count, offence.since), expected, "{reason:?}");
        assert_eq!(offence.source, source());
        note_all(&notes, &drop(reason), 100, 70 * SECOND, 71 * SECOND);
        assert_eq!(notes.offences.borrow().len(), 2, "{reason:?}: in the next minute again");
    }
}

#[test]
fn a_source_whose_connections_alone_go_over_its_limits_is_reported_once_a_minute() {
    let notes = with_a_connection();
    let (over, within) = (drop(Reason::PacketRate), Sample { passed: 1, ..drop(Reason::Allowed) });
    // Twice what it may, of which half passes: what is over that and the burst counts.
    for number in 0..300 {
        let now = SECOND + number * SECOND / 100;
        note_at(&notes, &over, now);
        note_at(&notes, &within, now);
    }
    let found = notes.offences.borrow().clone();
    let [offence] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((offence.kind(), offence.count), (Some(OffenceKind::Limited), 100));
    let limited = notes.evidence(&source()).unwrap().limited.load();
    assert!(
        (190..=210).contains(&limited),
        "600 were sent, 100 at once and 300 in 3 s are its right: {limited}"
    );
    note_all(&notes, &over, 400, 70 * SECOND, 71 * SECOND);
    assert_eq!(notes.offences.borrow().len(), 2, "in the next minute again");
}

/// A forger takes all that a client has left; the client's own packets are dropped.
#[test]
fn a_client_that_keeps_its_limits_is_no_offender_however_many_are_dropped() {
    for share_that_passes in [0, 1, 2] {
        let notes = with_a_connection();
        for number in 0..60_000_u64 {
            let now = SECOND + number * SECOND / 99;
            let passes = number % 2 < share_that_passes;
            let reason = if passes { Reason::Allowed } else { Reason::PacketRate };
            note_at(&notes, &Sample { passed: passes.into(), ..drop(reason) }, now);
        }
        assert!(notes.offences.borrow().is_empty(), "{share_that_passes}");
    }
}

#[test]
fn bytes_are_weighed_too() {
    let notes = with_a_connection();
    let (source, packet) = (source(), Sample { length: 1000, ..drop(Reason::ByteRate) });
    let limits = Limits { bytes: Rate::of_bytes(10_000, 10_000).unwrap(), ..Limits::default() };
    let accused = Accused { source: &source, thresholds: &THRESHOLDS, limits: Some(&limits) };
    for number in 0..200 {
        note(&notes, &packet, Some(&accused), SECOND + number * SECOND / 100);
    }
    let [limited, reported] =
        [notes.evidence(&source).unwrap().limited.load(), notes.offences.borrow().len() as u64];
    assert!((165..=175).contains(&limited) && reported == 1, "200 of which 10 + 20 are its right: {limited}");
}

#[test]
fn suspicion_ends() {
    let notes = with_a_connection();
    let within = Sample { passed: 1, ..drop(Reason::Allowed) };
    note_at(&notes, &within, SECOND);
    assert_eq!(notes.suspicion.load(), 0, "a packet within the limits makes no suspect");
    note_at(&notes, &drop(Reason::PacketRate), 2 * SECOND);
    assert_eq!(notes.suspicion.load(), 62 * SECOND);
    note_at(&notes, &within, 60 * SECOND);
    assert_eq!(notes.suspicion.load(), 62 * SECOND);
    note_at(&notes, &drop(Reason::PacketRate), 61 * SECOND);
    assert_eq!(notes.suspicion.load(), 121 * SECOND, "it goes on");
    note_at(&notes, &within, 121 * SECOND);
    assert_eq!(notes.suspicion.load(), 0);
}

#[test]
fn a_minute_does_not_carry_over() {
    let notes = with_a_connection();
    for minute in 0..20 {
        let from = SECOND + minute * 61 * SECOND;
        note_all(&notes, &drop(Reason::NotAllowed), 99, from, from + 59 * SECOND);
    }
    assert!(notes.offences.borrow().is_empty());
}

#[test]
fn what_anybody_can_forge_is_no_evidence() {
    let over = drop(Reason::PacketRate);
    let cases = [
        ("another port of the client", Sample { source_port: PORT + 1, ..over }),
        ("another service", Sample { service: 2, ..over }),
        ("a SYN", Sample { flags: TcpFlags::SYN.0, ..over }),
        ("UDP", Sample { protocol: 17, ..over }),
        ("a rate of connections", Sample { reason: Reason::ConnectionRate as u8, ..over }),
        ("too many connections", Sample { reason: Reason::MaxConnections as u8, ..over }),
        ("a block", Sample { reason: Reason::Blocked as u8, ..over }),
        ("a malformed packet", Sample { reason: Reason::Malformed as u8, ..over }),
        ("another client", Sample { source: Address::v4([10, 1, 2, 4]).to_bytes(), ..over }),
    ];
    for (name, drop) in cases {
        let notes = with_a_connection();
        note_all(&notes, &drop, 10_000, SECOND, 30 * SECOND);
        assert!(notes.offences.borrow().is_empty(), "{name}");
        assert_eq!(notes.suspicion.load(), 0, "{name}");
    }
}

/// The agent tells who would have been blocked, so the kernel reports it.
#[test]
fn what_a_service_that_only_monitors_lets_pass_is_reported() {
    let notes = with_a_connection();
    note_all(&notes, &Sample { passed: 1, ..drop(Reason::PacketRate) }, 10_000, SECOND, 30 * SECOND);
    assert_eq!(notes.offences.borrow().len(), 1);
}

/// A forger who tries all ports hits those of the client's connections, too.
#[test]
fn a_spray_over_all_ports_gets_nobody_blocked() {
    let notes = with_a_connection();
    let mut now = SECOND;
    for round in 0..400 {
        for port in (30_000..50_000).step_by(100) {
            now += 1000;
            let port = port + if port == PORT { 0 } else { round % 7 };
            note_at(&notes, &Sample { source_port: port, ..drop(Reason::PacketRate) }, now);
        }
    }
    let evidence = notes.evidence(&source()).unwrap();
    assert!(evidence.limited.load() >= 2 * THRESHOLDS.limited, "the connection was hit: {evidence:?}");
    assert!(notes.offences.borrow().is_empty());
}

#[test]
fn samples_are_taken_once_a_second_for_each_source_and_reason() {
    let notes = Memory::default();
    let other = Sample { source: Address::v4([10, 9, 9, 9]).to_bytes(), ..drop(Reason::NotAllowed) };
    for millisecond in 0..3500 {
        let now = SECOND + millisecond * SECOND / 1000;
        note(&notes, &drop(Reason::NotAllowed), None, now);
        if millisecond % 10 == 0 {
            note(&notes, &drop(Reason::Malformed), None, now);
            note(&notes, &other, None, now);
        }
    }
    let samples = notes.samples.borrow();
    let packets = |like: &Sample| -> Vec<u64> {
        let alike = |sample: &&Sample| (sample.source, sample.reason) == (like.source, like.reason);
        samples.iter().filter(alike).map(|sample| sample.packets).collect()
    };
    assert_eq!(packets(&drop(Reason::NotAllowed)), [1, 1000, 1000, 1000]);
    assert_eq!(packets(&drop(Reason::Malformed)), [1, 100, 100, 100]);
    assert_eq!(packets(&other), [1, 100, 100, 100]);
}

#[test]
fn a_flood_is_looked_into_so_many_times_and_stands_for_all() {
    let mut budget = Budget::default();
    for stretch in 1..=3 {
        let weights: Vec<u32> = (0..1_000_000).map(|_| budget.spend(stretch, || 0).0).collect();
        let looks = weights.iter().filter(|weight| **weight != 0).count();
        let stood_for: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        assert!((2200..2300).contains(&looks), "{looks}");
        assert!((999_000..=1_000_600).contains(&stood_for), "{stood_for}");
        assert!(weights[..A_STRETCH as usize].iter().all(|weight| *weight == 1));
    }
}

#[test]
fn no_drop_stands_for_more_than_there_were() {
    let mut budget = Budget::default();
    let (mut there_were, mut stood_for) = (0_u64, 0_u64);
    // Stretches with some drops over what is looked into, and some with fewer, and one that is watched in between.
    for stretch in 1..=2_000 {
        let is_watched = u64::from(stretch % 7 == 0);
        for _ in 0..A_STRETCH - 100 + stretch % 300 {
            let (weight, watched) = budget.spend(stretch, || is_watched);
            assert_eq!(watched, is_watched != 0, "each drop is shown to who watches");
            there_were += 1;
            stood_for += u64::from(weight);
            assert!(stood_for <= there_were, "{stood_for} of {there_were} in stretch {stretch}");
        }
    }
    assert!(there_were - stood_for < ONE_IN, "{stood_for} of {there_were}");
}
