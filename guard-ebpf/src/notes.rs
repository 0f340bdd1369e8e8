//! What is noted of packets, over the maps: of drops, and of all while somebody wants to know what sources send.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use guard_common::abi::{
    Evidence, FlowKey, LimitsId, Lost, Offence, Policy, Sample, SampleKey, Sampled, ServiceId, SourceKey,
    Thresholds, Traffic,
};
use guard_common::drops::{self, Accused, EvidenceState, Notes, SampledState};
use guard_common::observe::{Observer, Step};
use guard_common::parse::{Headers, Part};
use guard_common::track;
use guard_common::traffic::{self, TrafficState};
use guard_common::{Reason, Tables, Verdict};

use crate::maps::{
    EVIDENCE, FLOWS, LIMITS, METERS, OFFENCES, POLICIES, SAMPLED, SAMPLES, TRAFFIC, TRAFFIC_UNTIL, keep,
    kept, lose,
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

/// Notes a packet. Few come here, and it is done in functions of their own, so that the path of all others stays short. It goes through a map: so
/// the verifier finds all packets the same.
#[inline(always)]
pub fn note(headers: &Headers, outcome: Outcome) {
    begin(headers, outcome.word());
    weigh(outcome.word());
}

#[inline(never)]
fn begin(headers: &Headers, outcome: u64) -> u64 {
    keep(Outcome::of_word(outcome).sample(headers));
    0
}

/// Notes the packet that was kept last. Where it stands for no packets it was only kept, for who watches, and is weighed if its source is a
/// suspect.
#[inline(never)]
pub fn weigh(outcome: u64) -> u64 {
    let outcome = Outcome::of_word(outcome);
    if let Some(packet) = kept()
        && (outcome.weight() != 0 || outcome.is_suspected())
    {
        weigh_kept(outcome, packet);
    }
    0
}

#[inline(always)]
fn weigh_kept(outcome: Outcome, packet: &Sample) {
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
/// The lower half but for the bits in between is the word of the verdict.
#[derive(Clone, Copy)]
pub struct Outcome(u64);

impl Outcome {
    const WEIGHT_AT: u32 = 32;
    const LIMITS_AT: u32 = 24;
    const SERVICE_AT: u32 = 16;
    const REASON_AT: u32 = 8;
    const PART_AT: u32 = 3;
    const PASSED: u64 = 1;
    const DROP: u64 = 2;
    const SUSPECTED: u64 = 4;
    const PART: u64 = 3 << Self::PART_AT;
    const VERDICT: u64 = 0xff_ff00 | Self::DROP | Self::PASSED;

    #[inline(always)]
    pub fn new(verdict: Verdict, suspicion: &Suspicion, part: Part) -> Self {
        let suspected = if forget(suspicion.until) == 0 { 0 } else { Self::SUSPECTED };
        Self(forget(
            suspicion.limits << Self::LIMITS_AT
                | u64::from(verdict.word())
                | u64::from(part.number()) << Self::PART_AT
                | suspected,
        ))
    }

    #[inline(always)]
    pub fn of_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Of a fragment: what was decided of it in the end.
    #[inline(always)]
    pub fn with_verdict(self, verdict: Verdict) -> Self {
        Self(self.0 & !Self::VERDICT | u64::from(verdict.word()))
    }

    /// Of a fragment: this service is to be charged.
    #[inline(always)]
    pub fn with_service(self, service: ServiceId) -> Self {
        Self(self.0 & !(0xff << Self::SERVICE_AT) | u64::from(service.get()) << Self::SERVICE_AT)
    }

    /// Whether it is spared since its service only monitors.
    #[inline(always)]
    pub fn is_spared(self) -> bool {
        self.0 & (Self::DROP | Self::PASSED) == Self::DROP | Self::PASSED
    }

    #[inline(always)]
    pub fn is_of(self, reason: Reason) -> bool {
        (self.0 >> Self::REASON_AT) as u8 == reason as u8
    }

    #[inline(always)]
    pub fn that_drops(self) -> Self {
        Self(self.0 & !Self::PASSED)
    }

    #[inline(always)]
    pub fn is_fragment(self) -> bool {
        self.0 & Self::PART != 0
    }

    #[inline(always)]
    pub fn part(self) -> Part {
        Part::of_number(((self.0 & Self::PART) >> Self::PART_AT) as u8)
    }

    #[inline(always)]
    pub fn verdict(self) -> Option<Verdict> {
        Verdict::of_word((self.0 & Self::VERDICT) as u32)
    }

    /// As [`Verdict::counter`].
    #[inline(always)]
    pub fn counter(self) -> u32 {
        self.verdict().map_or(0, Verdict::counter)
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
    pub fn service(self) -> ServiceId {
        ServiceId::new((self.0 >> Self::SERVICE_AT) as u8)
    }

    /// Of a fragment: what the limits are that it is charged by.
    #[inline(always)]
    pub fn with_limits(self, limits: LimitsId) -> Self {
        let others = self.0 & !(0xff << Self::LIMITS_AT);
        Self(others | u64::from(limits.get()) << Self::LIMITS_AT)
    }

    #[inline(always)]
    pub fn limits(self) -> LimitsId {
        LimitsId::new((self.0 >> Self::LIMITS_AT) as u8)
    }

    #[inline(always)]
    fn weight(self) -> u64 {
        self.0 >> Self::WEIGHT_AT
    }

    /// Puts it into a sample that was made before it was decided.
    #[inline(always)]
    pub fn amend(self, sample: &mut Sample) {
        sample.packets = self.weight();
        sample.service = self.service().get();
        sample.reason = (self.0 >> Self::REASON_AT) as u8;
        sample.passed = self.has_passed().into();
    }

    #[inline(always)]
    pub fn sample(self, headers: &Headers) -> Sample {
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
