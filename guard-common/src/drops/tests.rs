//! Evidence and samples, over plain memory.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::vec::Vec;

use super::*;
use crate::Address;
use crate::abi::{Service, ServiceId};

const SECOND: u64 = 1_000_000_000;
const THRESHOLDS: Thresholds = Thresholds { connections: 10, refused: 100, limited: 100 };
const CLIENT: Address = Address::v4([10, 1, 2, 3]);
const PORT: u16 = 40_000;
const ACK: u8 = TcpFlags::ACK.0;

#[derive(Clone, Debug, Default)]
struct Cells(Rc<Cell<u64>>);

impl Word for Cells {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        let seen = self.0.get();
        if seen == current {
            self.0.set(new);
        }
        if seen == current { Ok(()) } else { Err(seen) }
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}

#[derive(Default)]
struct Memory {
    flows: HashMap<FlowKey, Flow>,
    evidence: RefCell<HashMap<SourceKey, EvidenceState<Cells>>>,
    sampled: RefCell<HashMap<SampleKey, SampledState<Cells>>>,
    samples: RefCell<Vec<Sample>>,
    offences: RefCell<Vec<Offence>>,
}

impl Notes for Memory {
    type Word = Cells;

    fn flow(&self, flow: &FlowKey) -> Option<Flow> {
        self.flows.get(flow).copied()
    }

    fn evidence(&self, source: &SourceKey) -> Option<EvidenceState<Cells>> {
        Some(self.evidence.borrow_mut().entry(*source).or_default().clone())
    }

    fn sampled(&self, key: &SampleKey) -> Option<SampledState<Cells>> {
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
    let flows = HashMap::from([(FlowKey::new(CLIENT, PORT), Flow::established(source()))]);
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

/// Notes `count` drops, evenly from `from` to `to` nanoseconds.
fn note_all(notes: &Memory, drop: &Sample, count: u64, from: u64, to: u64) {
    for number in 0..count {
        note(notes, drop, Some((source(), THRESHOLDS)), from + (to - from) * number / count);
    }
}

#[test]
fn packets_of_a_connection_are_evidence_and_reported_once_a_minute() {
    for (reason, kind) in [
        (Reason::PacketRate, OffenceKind::Limited),
        (Reason::ByteRate, OffenceKind::Limited),
        (Reason::NotAllowed, OffenceKind::Refused),
        (Reason::Denied, OffenceKind::Refused),
    ] {
        let notes = with_a_connection();
        note_all(&notes, &drop(reason), 99, SECOND, 20 * SECOND);
        assert!(notes.offences.borrow().is_empty(), "{reason:?}");
        note_all(&notes, &drop(reason), 500, 20 * SECOND, 21 * SECOND);
        let found = notes.offences.borrow().clone();
        let [offence] = found.as_slice() else { panic!("{reason:?}: {found:?}") };
        assert_eq!((offence.kind(), offence.count, offence.since), (Some(kind), 100, SECOND), "{reason:?}");
        assert_eq!(offence.source, source());
        note_all(&notes, &drop(reason), 100, 70 * SECOND, 71 * SECOND);
        assert_eq!(notes.offences.borrow().len(), 2, "{reason:?}: in the next minute again");
    }
}

#[test]
fn a_minute_does_not_carry_over() {
    let notes = with_a_connection();
    for minute in 0..20 {
        let from = SECOND + minute * 61 * SECOND;
        note_all(&notes, &drop(Reason::PacketRate), 99, from, from + 59 * SECOND);
    }
    assert!(notes.offences.borrow().is_empty());
}

#[test]
fn what_anybody_can_forge_is_no_evidence() {
    let established = drop(Reason::PacketRate);
    let cases = [
        ("another port of the client", Sample { source_port: PORT + 1, ..established }),
        ("a SYN", Sample { flags: TcpFlags::SYN.0, ..established }),
        ("UDP", Sample { protocol: 17, ..established }),
        ("a rate of connections", Sample { reason: Reason::ConnectionRate as u8, ..established }),
        ("too many connections", Sample { reason: Reason::MaxConnections as u8, ..established }),
        ("a block", Sample { reason: Reason::Blocked as u8, ..established }),
        ("a malformed packet", Sample { reason: Reason::Malformed as u8, ..established }),
        ("monitor mode", Sample { passed: 1, ..established }),
        ("another client", Sample { source: Address::v4([10, 1, 2, 4]).to_bytes(), ..established }),
    ];
    for (name, drop) in cases {
        let notes = with_a_connection();
        note_all(&notes, &drop, 10_000, SECOND, 30 * SECOND);
        assert!(notes.offences.borrow().is_empty(), "{name}");
    }
    let opening = HashMap::from([(FlowKey::new(CLIENT, PORT), Flow::opening(source(), SECOND))]);
    let notes = Memory { flows: opening, ..Memory::default() };
    note_all(&notes, &established, 10_000, SECOND, 30 * SECOND);
    assert!(notes.offences.borrow().is_empty(), "a SYN alone opens no connection");
}

/// A forger who tries all ports hits those of the client's connections, too.
#[test]
fn a_spray_over_all_ports_gets_nobody_blocked() {
    let notes = with_a_connection();
    let mut now = SECOND;
    for round in 0..200 {
        for port in (30_000..50_000).step_by(100) {
            now += 1000;
            let port = port + if port == PORT { 0 } else { round % 7 };
            let sprayed = Sample { source_port: port, ..drop(Reason::PacketRate) };
            note(&notes, &sprayed, Some((source(), THRESHOLDS)), now);
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
        let weights: Vec<u32> = (0..1_000_000).map(|_| budget.spend(stretch, || 0)).collect();
        let looks = weights.iter().filter(|weight| **weight != 0).count();
        let stood_for: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        assert!((2200..2300).contains(&looks), "{looks}");
        assert!((999_000..=1_000_600).contains(&stood_for), "{stood_for}");
        assert!(weights[..A_STRETCH as usize].iter().all(|weight| *weight == 1));
    }
}
