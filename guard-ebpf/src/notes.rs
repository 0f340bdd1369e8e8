//! What is noted of packets, over the maps: of drops, and of all while somebody wants to know what sources send.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use guard_common::abi::{
    Evidence, FlowKey, LimitsId, Lost, Offence, Policy, Sample, SampleKey, Sampled, ServiceId, SourceKey,
    Thresholds, Traffic,
};
use guard_common::drops::{self, Accused, EvidenceState, Notes, SampledState};
use guard_common::observe::{Observer, Step};
use guard_common::parse::Headers;
use guard_common::track;
use guard_common::traffic::{self, TrafficState};
use guard_common::{Action, Tables, Verdict};

use crate::maps::{
    EVIDENCE, FLOWS, LIMITS, METERS, OFFENCES, POLICIES, SAMPLED, SAMPLES, TRAFFIC, TRAFFIC_UNTIL, keep, lose,
};
use crate::now;
use crate::tables::{Maps, limits_index};
use crate::word::{MapWord, forget};

/// What the decision says of the source of a packet.
#[derive(Default)]
pub struct Suspicion {
    limits: u64,
    /// Not 0: what it sends is weighed, or was until a moment ago.
    until: u64,
}

impl Observer for Suspicion {
    #[inline(always)]
    fn step(&mut self, step: Step) {
        if let Step::Source { limits, suspected_until } = step {
            self.limits = u64::from(limits.get());
            self.until = suspected_until;
        }
    }
}

/// Notes a packet. Few come here, and it is a function of its own, so that the path of all others stays short.
///
/// Where it stands for no packets it is only kept, for who watches, and weighed, if its source is a suspect.
#[inline(never)]
pub fn note(headers: &Headers, outcome: Outcome) {
    // Through a map: so the verifier finds all packets the same.
    let Some(packet) = keep(outcome.sample(headers)) else { return };
    if outcome.weight() == 0 && !outcome.is_suspected() {
        return;
    }
    let now = now();
    let slot = Maps.epoch().live(|| now);
    let source = track::source_at(&Maps, slot, packet.service(), packet.source());
    let Some(source) = source else {
        drops::note(&Noted, packet, None, now);
        return;
    };
    count(&source, packet, now);
    let Some(policy) = POLICIES.get(slot.index()) else { return };
    let limits = LIMITS.get(limits_index(slot, outcome.limits()));
    let accused = Accused { source: &source, thresholds: &policy.thresholds, limits };
    drops::note(&Noted, packet, Some(&accused), now);
}

/// Counts a packet to its source, while somebody wants to know.
#[inline(always)]
fn count(source: &SourceKey, packet: &Sample, now: u64) {
    let Some(until) = TRAFFIC_UNTIL.get_ptr_mut(0) else { return };
    // SAFETY: an aligned word of a map value.
    if traffic::is_wanted(&unsafe { MapWord::new(until) }, now) {
        if TRAFFIC.get_ptr(source).is_none() {
            let _ = TRAFFIC.insert(source, Traffic::default(), u64::from(BPF_NOEXIST));
        }
        if let Some(traffic) = TRAFFIC.get_ptr_mut(source) {
            traffic::count(&traffic_in_place(traffic), packet);
        }
    }
}

/// A verdict, how many packets it stands for, and what is known of the source: packed into one number, of which the verifier knows nothing.
#[derive(Clone, Copy)]
pub struct Outcome(u64);

impl Outcome {
    const WEIGHT_AT: u32 = 32;
    const LIMITS_AT: u32 = 24;
    const SERVICE_AT: u32 = 16;
    const REASON_AT: u32 = 8;
    const PASSED: u64 = 1;
    const DROP: u64 = 2;
    const SUSPECTED: u64 = 4;

    #[inline(always)]
    pub fn new(verdict: Verdict, suspicion: &Suspicion) -> Self {
        let Verdict { action, reason, service } = verdict;
        let passed = if action == Action::Drop { 0 } else { Self::PASSED };
        let drop = if reason.drops() { Self::DROP } else { 0 };
        let suspected = if forget(suspicion.until) == 0 { 0 } else { Self::SUSPECTED };
        Self(forget(
            suspicion.limits << Self::LIMITS_AT
                | u64::from(service.get()) << Self::SERVICE_AT
                | (reason as u64) << Self::REASON_AT
                | suspected
                | drop
                | passed,
        ))
    }

    #[inline(always)]
    pub fn with_weight(self, weight: u32) -> Self {
        Self(u64::from(weight) << Self::WEIGHT_AT | self.0)
    }

    #[inline(always)]
    pub fn has_passed(self) -> bool {
        self.0 & Self::PASSED != 0
    }

    /// Whether it is a drop, or would be one if its service enforced.
    #[inline(always)]
    pub fn is_drop(self) -> bool {
        self.0 & Self::DROP != 0
    }

    #[inline(always)]
    pub fn is_suspected(self) -> bool {
        self.0 & Self::SUSPECTED != 0
    }

    #[inline(always)]
    pub fn is_guarded(self) -> bool {
        self.service() != ServiceId::NONE
    }

    #[inline(always)]
    fn service(self) -> ServiceId {
        ServiceId::new((self.0 >> Self::SERVICE_AT) as u8)
    }

    #[inline(always)]
    fn limits(self) -> LimitsId {
        LimitsId::new((self.0 >> Self::LIMITS_AT) as u8)
    }

    #[inline(always)]
    fn weight(self) -> u64 {
        self.0 >> Self::WEIGHT_AT
    }

    #[inline(always)]
    fn sample(self, headers: &Headers) -> Sample {
        let Headers { source, protocol, source_port, port, flags, .. } = headers;
        Sample {
            at: 0,
            packets: self.weight(),
            source: source.to_bytes(),
            length: headers.length,
            source_port: *source_port,
            port: *port,
            protocol: *protocol,
            service: self.service().get(),
            reason: (self.0 >> Self::REASON_AT) as u8,
            passed: self.has_passed().into(),
            flags: flags.0,
            padding: [0; 3],
        }
    }
}

/// The thresholds of the policy that judges now.
pub fn thresholds(now: u64) -> Thresholds {
    let slot = Maps.epoch().live(|| now);
    POLICIES.get(slot.index()).map_or(Thresholds::default(), |policy: &Policy| policy.thresholds)
}

/// Not on the stack, which is small.
static NO_EVIDENCE: &Evidence =
    &Evidence { since: 0, refused: 0, limited: 0, unproven: 0, packets: 0, bytes: 0, reported: 0 };

pub struct Noted;

impl Notes for Noted {
    type Word = MapWord;

    #[inline(always)]
    fn is_established(&self, flow: &FlowKey) -> bool {
        // SAFETY: the value was just looked up; it is a word that is changed as a whole.
        FLOWS.get_ptr(flow).is_some_and(|sum| unsafe { sum.read_volatile() }.cast_signed() > 0)
    }

    #[inline(always)]
    fn suspicion(&self, source: &SourceKey) -> Option<MapWord> {
        // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
        METERS
            .get_ptr_mut(source)
            .map(|meter| unsafe { MapWord::new(addr_of_mut!((*meter).suspected_until)) })
    }

    #[inline(always)]
    fn evidence(&self, source: &SourceKey) -> Option<EvidenceState<MapWord>> {
        if let Some(evidence) = EVIDENCE.get_ptr_mut(source) {
            return Some(evidence_in_place(evidence));
        }
        // Another CPU may be first: then its state is the one to use.
        let _ = EVIDENCE.insert(source, NO_EVIDENCE, u64::from(BPF_NOEXIST));
        EVIDENCE.get_ptr_mut(source).map(evidence_in_place)
    }

    #[inline(always)]
    fn sampled(&self, key: &SampleKey) -> Option<SampledState<MapWord>> {
        if let Some(sampled) = SAMPLED.get_ptr_mut(key) {
            return Some(sampled_in_place(sampled));
        }
        let _ = SAMPLED.insert(key, Sampled::default(), u64::from(BPF_NOEXIST));
        SAMPLED.get_ptr_mut(key).map(sampled_in_place)
    }

    #[inline(always)]
    fn sample(&self, sample: Sample) {
        match SAMPLES.reserve(0) {
            Some(mut entry) => {
                entry.write(sample);
                entry.submit(0);
            }
            None => lose(Lost::Sample),
        }
    }

    #[inline(always)]
    fn offence(&self, offence: Offence) {
        match OFFENCES.reserve(0) {
            Some(mut entry) => {
                entry.write(offence);
                entry.submit(0);
            }
            None => lose(Lost::Offence),
        }
    }
}

#[inline(always)]
fn evidence_in_place(evidence: *mut Evidence) -> EvidenceState<MapWord> {
    // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
    unsafe {
        EvidenceState {
            since: MapWord::new(addr_of_mut!((*evidence).since)),
            refused: MapWord::new(addr_of_mut!((*evidence).refused)),
            limited: MapWord::new(addr_of_mut!((*evidence).limited)),
            unproven: MapWord::new(addr_of_mut!((*evidence).unproven)),
            packets: MapWord::new(addr_of_mut!((*evidence).packets)),
            bytes: MapWord::new(addr_of_mut!((*evidence).bytes)),
            reported: MapWord::new(addr_of_mut!((*evidence).reported)),
        }
    }
}

#[inline(always)]
fn traffic_in_place(traffic: *mut Traffic) -> TrafficState<MapWord> {
    // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
    unsafe {
        TrafficState {
            packets: MapWord::new(addr_of_mut!((*traffic).packets)),
            bytes: MapWord::new(addr_of_mut!((*traffic).bytes)),
            openings: MapWord::new(addr_of_mut!((*traffic).openings)),
            dropped: MapWord::new(addr_of_mut!((*traffic).dropped)),
        }
    }
}

#[inline(always)]
fn sampled_in_place(sampled: *mut Sampled) -> SampledState<MapWord> {
    // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
    unsafe {
        SampledState {
            at: MapWord::new(addr_of_mut!((*sampled).at)),
            unreported: MapWord::new(addr_of_mut!((*sampled).unreported)),
        }
    }
}
