//! What follows from a drop: a sample of it for the events, and evidence against its source.
//!
//! Neither may cost a flood anything: each CPU looks into so many drops in a stretch of time, and past these into one of many, which
//! then stands for all of them.
//!
//! A source address is easily forged, so only packets of an established connection are evidence: whoever sends one knows the
//! client's port, too. A forger who tries all ports at once hits some of them; then most of his packets belong to no
//! connection, and the evidence does not count.

use crate::Reason;
use crate::abi::{Budget, Flow, FlowKey, Offence, OffenceKind, Sample, SampleKey, SourceKey, Thresholds};
use crate::gcra::Word;
use crate::parse::{TCP, TcpFlags};

/// Drops that a CPU looks into in a stretch.
const A_STRETCH: u32 = 256;
/// Past these, one in so many.
const ONE_IN: u32 = 512;
/// The same source is sampled for the same reason once in so many nanoseconds.
const BETWEEN_SAMPLES: u64 = 1_000_000_000;
/// The thresholds are for so many nanoseconds.
const MINUTE: u64 = 60_000_000_000;

impl Budget {
    /// For how many drops this one stands; 0: it is not looked into. `stretch` numbers stretches of time; `watch` tells whether somebody
    /// watches, and is asked once in each.
    #[inline(always)]
    pub fn spend(&mut self, stretch: u64, watch: impl FnOnce() -> u64) -> u32 {
        if self.stretch != stretch {
            self.stretch = stretch;
            self.left = A_STRETCH;
            self.watch = watch();
        }
        if self.left > 0 {
            self.left -= 1;
            return 1;
        }
        self.skipped += 1;
        if self.skipped < ONE_IN {
            return 0;
        }
        self.skipped = 0;
        ONE_IN
    }
}

/// What was noted before, and where it goes: BPF maps in the kernel, plain memory in tests.
pub trait Notes {
    /// How a shared word of state is reached.
    type Word: Word;

    fn flow(&self, flow: &FlowKey) -> Option<Flow>;

    /// Made if there is none; `None` if there is no room.
    fn evidence(&self, source: &SourceKey) -> Option<EvidenceState<Self::Word>>;

    /// When a sample was taken and how many packets came since; made if there is none.
    fn sampled(&self, key: &SampleKey) -> Option<SampledState<Self::Word>>;

    fn sample(&self, sample: Sample);

    fn offence(&self, offence: Offence);
}

/// A [`crate::abi::Evidence`] in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvidenceState<W> {
    pub since: W,
    pub refused: W,
    pub limited: W,
    pub unproven: W,
    pub reported: W,
}

/// A [`crate::abi::Sampled`] in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampledState<W> {
    pub at: W,
    pub unreported: W,
}

/// Notes a drop at `now` (nanoseconds), which stands for as many as its `packets` say. `source` and `thresholds` are what it is counted
/// under at its service, if it has one.
#[inline(always)]
pub fn note(notes: &impl Notes, drop: &Sample, source: Option<(SourceKey, Thresholds)>, now: u64) {
    if let Some((source, thresholds)) = source
        && drop.passed == 0
        && drop.protocol == TCP
        && !TcpFlags(drop.flags).opens_connection()
    {
        charge(notes, drop, &source, &thresholds, now);
    }
    sample(notes, drop, now);
}

#[inline(always)]
fn sample(notes: &impl Notes, drop: &Sample, now: u64) {
    let Some(state) = notes.sampled(&SampleKey::of(drop)) else { return };
    let at = state.at.load();
    // One that stands for many is of a flood, which has samples enough.
    let due = drop.packets == 1 && (at == 0 || now.wrapping_sub(at) >= BETWEEN_SAMPLES);
    if !due || state.at.compare_exchange(at, now).is_err() {
        state.unreported.add(drop.packets);
        return;
    }
    let unreported = state.unreported.load();
    state.unreported.add(unreported.wrapping_neg());
    notes.sample(Sample { at: now, packets: unreported.wrapping_add(drop.packets), ..*drop });
}

/// What a packet is evidence of.
#[inline(always)]
const fn offence(reason: Reason) -> Option<OffenceKind> {
    match reason {
        Reason::NotAllowed | Reason::Denied => Some(OffenceKind::Refused),
        Reason::PacketRate | Reason::ByteRate => Some(OffenceKind::Limited),
        // These are SYNs, which anybody can forge, or packets of a source that has its block already.
        Reason::ConnectionRate | Reason::MaxConnections | Reason::Blocked | Reason::Malformed => None,
        Reason::NotIp | Reason::Unguarded | Reason::Fragment | Reason::Trusted | Reason::Allowed => None,
    }
}

#[inline(always)]
fn charge<N: Notes>(notes: &N, drop: &Sample, source: &SourceKey, thresholds: &Thresholds, now: u64) {
    let Some(kind) = drop.reason().and_then(offence) else { return };
    let (refused, threshold) = match kind {
        OffenceKind::Refused => (true, thresholds.refused),
        OffenceKind::Limited => (false, thresholds.limited),
        OffenceKind::Connections => return,
    };
    if threshold == 0 {
        return;
    }
    let flow = notes.flow(&FlowKey::new(drop.source(), drop.source_port));
    let proven = flow.is_some_and(|flow| flow.is_established() && flow.source() == source);
    // Strangers' packets are refused by the million, and none is evidence: nothing is noted of them.
    if refused && !proven {
        return;
    }
    let Some(evidence) = notes.evidence(source) else { return };
    begin_minute(&evidence, now);
    let word = match (refused, proven) {
        (true, _) => &evidence.refused,
        (false, true) => &evidence.limited,
        (false, false) => &evidence.unproven,
    };
    word.add(drop.packets);
    if !proven {
        return;
    }
    let count = word.load();
    let outweighed = !refused && evidence.unproven.load() > count;
    if count >= threshold && !outweighed && evidence.reported.compare_exchange(0, 1).is_ok() {
        notes.offence(Offence::new(kind, *source, count, evidence.since.load(), now));
    }
}

/// Forgets what was counted in the minute before. Who comes last on another CPU meanwhile is counted in either.
#[inline(always)]
fn begin_minute<W: Word>(evidence: &EvidenceState<W>, now: u64) {
    let since = evidence.since.load();
    if since != 0 && now.wrapping_sub(since) < MINUTE {
        return;
    }
    if evidence.since.compare_exchange(since, now).is_ok() {
        for word in [&evidence.refused, &evidence.limited, &evidence.unproven, &evidence.reported] {
            word.add(word.load().wrapping_neg());
        }
    }
}

#[cfg(test)]
mod tests;
