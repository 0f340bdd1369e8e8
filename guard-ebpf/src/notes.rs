//! What is noted of packets, over the maps: of drops, and of all while somebody wants to know what sources send.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use guard_common::abi::{
    Evidence, Flow, FlowKey, Lost, Offence, Policy, Sample, SampleKey, Sampled, SourceKey, Thresholds,
    Traffic,
};
use guard_common::drops::{self, EvidenceState, Notes, SampledState};
use guard_common::parse::Headers;
use guard_common::track;
use guard_common::traffic::{self, TrafficState};
use guard_common::{Action, Tables, Verdict};

use crate::maps::{
    EVIDENCE, FLOWS, OFFENCES, POLICIES, SAMPLED, SAMPLES, TRAFFIC, TRAFFIC_UNTIL, keep, lose,
};
use crate::now;
use crate::tables::Maps;
use crate::word::{MapWord, forget};

/// Notes a packet. Few come here, and it is a function of its own, so that the path of all others stays short.
///
/// Where it stands for no packets it is only kept, for who watches. `verdict` is packed, and goes through a map: so the verifier, which gets
/// here on hundreds of paths, finds them all the same and walks on once.
#[inline(never)]
pub fn note(headers: &Headers, verdict: u64, length: u64) {
    let Some(packet) = keep(unpack(headers, forget(verdict), length)) else { return };
    if packet.packets == 0 {
        return;
    }
    let now = now();
    let slot = Maps.epoch().live(|| now);
    let source = track::source_at(&Maps, slot, packet.service(), packet.source());
    if let Some(source) = source {
        count(&source, packet, now);
    }
    if packet.reason().is_some_and(|reason| reason.drops()) {
        let thresholds = POLICIES.get(slot.index()).map_or(Thresholds::default(), |policy| policy.thresholds);
        drops::note(&Noted, packet, source.map(|source| (source, thresholds)), now);
    }
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

/// A verdict and how many packets it stands for, as [`note`] takes them.
#[inline(always)]
pub fn pack(verdict: Verdict, weight: u32) -> u64 {
    let Verdict { action, reason, service } = verdict;
    let passed = u64::from(action != Action::Drop);
    u64::from(weight) << 32 | u64::from(service.get()) << 16 | (reason as u64) << 8 | passed
}

#[inline(always)]
fn unpack(headers: &Headers, verdict: u64, length: u64) -> Sample {
    let Headers { source, protocol, source_port, port, flags } = headers;
    Sample {
        at: 0,
        packets: verdict >> 32,
        source: source.to_bytes(),
        length: length as u32,
        source_port: *source_port,
        port: *port,
        protocol: *protocol,
        service: (verdict >> 16) as u8,
        reason: (verdict >> 8) as u8,
        passed: verdict as u8,
        flags: flags.0,
        padding: [0; 3],
    }
}

/// The thresholds of the policy that judges now.
pub fn thresholds(now: u64) -> Thresholds {
    let slot = Maps.epoch().live(|| now);
    POLICIES.get(slot.index()).map_or(Thresholds::default(), |policy: &Policy| policy.thresholds)
}

pub struct Noted;

impl Notes for Noted {
    type Word = MapWord;

    #[inline(always)]
    fn flow(&self, flow: &FlowKey) -> Option<Flow> {
        // SAFETY: the value is copied. It changes as a whole but for its state, which is one word.
        FLOWS.get_ptr(flow).map(|flow| unsafe { *flow })
    }

    #[inline(always)]
    fn evidence(&self, source: &SourceKey) -> Option<EvidenceState<MapWord>> {
        if let Some(evidence) = EVIDENCE.get_ptr_mut(source) {
            return Some(evidence_in_place(evidence));
        }
        // Another CPU may be first: then its state is the one to use.
        let _ = EVIDENCE.insert(source, Evidence::default(), u64::from(BPF_NOEXIST));
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
