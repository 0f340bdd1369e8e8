//! What follows from a drop: a sample of it for the events, and evidence against its source.
//!
//! Neither may cost a flood anything: each CPU looks into so many drops in a stretch of time, and past these into one of many, which
//! then stands for all of them.
//!
//! A source address is easily forged, so only packets of an established connection are evidence: whoever sends one knows the
//! client's port, too. And since forged packets take from what a client has left for its own, a packet over the limits is no evidence by
//! itself. It makes its source a suspect: from then on each packet of it is weighed, and those of its connections alone are held against
//! the same limits once more. What is over these is evidence.
//!
//! A forger who tries all ports at once hits some of the client's connections; then most of his packets belong to none, and the
//! evidence does not count.

use crate::Reason;
use crate::abi::{Budget, FlowKey, Limits, Offence, OffenceKind, Sample, SampleKey, SourceKey, Thresholds};
use crate::gcra::{Rate, Word};
use crate::parse::{TCP, TcpFlags};

/// Drops that a CPU looks into in a stretch.
const A_STRETCH: u64 = 256;
/// Past these, one in so many.
const ONE_IN: u64 = 512;
/// The same source is sampled for the same reason once in so many nanoseconds.
const BETWEEN_SAMPLES: u64 = 1_000_000_000;
/// The thresholds are for so many nanoseconds.
const MINUTE: u64 = 60_000_000_000;

impl Budget {
    const NEXT_BITS: u32 = 16;
    const MOST_NEXT: u64 = (1 << Self::NEXT_BITS) - 1;

    /// For how many drops this one stands (0: it is not looked into), and whether somebody watches it. `stretch` numbers stretches of
    /// time; `watch` tells whether somebody watches, and is asked once in each.
    #[inline(always)]
    pub fn spend(&mut self, stretch: u64, watch: impl FnOnce() -> u64) -> (u32, bool) {
        // Of another stretch, this is below 0 or past the most.
        let next = self.quiet.wrapping_sub(stretch << Self::NEXT_BITS);
        if next.wrapping_sub(2) < Self::MOST_NEXT - 1 {
            self.quiet -= 1;
            return (0, false);
        }
        (self.look(stretch, watch), self.watch != 0)
    }

    #[inline(always)]
    fn look(&mut self, stretch: u64, watch: impl FnOnce() -> u64) -> u32 {
        if self.stretch != stretch {
            self.stretch = stretch;
            self.left = A_STRETCH;
            self.watch = watch();
        }
        let mut next = self.quiet & Self::MOST_NEXT;
        let weight = if self.left > 0 {
            self.left -= 1;
            1
        } else if next == 1 {
            next = ONE_IN;
            ONE_IN as u32
        } else {
            next = if next == 0 { ONE_IN } else { next } - 1;
            0
        };
        // Who watches is shown each of them.
        let is_quiet = self.left == 0 && self.watch == 0;
        self.quiet = if is_quiet { stretch << Self::NEXT_BITS } else { 0 } | next;
        weight
    }
}

/// What was noted before, and where it goes: BPF maps in the kernel, plain memory in tests.
pub trait Notes {
    /// How a shared word of state is reached.
    type Word: Word;

    /// Whether the connection is established.
    fn is_established(&self, flow: &FlowKey) -> bool;

    /// Until when its packets are weighed ([`crate::abi::Meter`]); `None` if nothing is known of it.
    fn suspicion(&self, source: &SourceKey) -> Option<Self::Word>;

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
    pub packets: W,
    pub bytes: W,
    pub reported: W,
}

/// A [`crate::abi::Sampled`] in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampledState<W> {
    pub at: W,
    pub unreported: W,
}

/// Whom a packet is counted against.
#[derive(Clone, Copy, Debug)]
pub struct Accused<'a> {
    pub source: &'a SourceKey,
    pub thresholds: &'a Thresholds,
    /// Its limits, if it has some.
    pub limits: Option<&'a Limits>,
}

/// Notes a drop at `now` (nanoseconds), which stands for as many as its `packets` say; or a packet of a suspect that has passed. `accused` is
/// what it is counted against at its service, if it has one.
#[inline(always)]
pub fn note(notes: &impl Notes, packet: &Sample, accused: Option<&Accused<'_>>, now: u64) {
    let Some(reason) = packet.reason() else { return };
    if let Some(accused) = accused {
        charge(notes, packet, reason, accused, now);
    }
    if packet.packets != 0 && reason.drops() {
        sample(notes, packet, now);
    }
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

/// Whether it belongs to a connection: its client has received what the server sent to it.
#[inline(always)]
fn is_proven(notes: &impl Notes, packet: &Sample) -> bool {
    let flow = FlowKey::new(packet.source(), packet.source_port, packet.service());
    packet.protocol == TCP && !TcpFlags(packet.flags).opens_connection() && notes.is_established(&flow)
}

/// What a packet is evidence of; of a suspect, one that has passed, too.
#[inline(always)]
const fn offence(reason: Reason) -> Option<OffenceKind> {
    match reason {
        Reason::NotAllowed | Reason::Denied => Some(OffenceKind::Refused),
        Reason::PacketRate | Reason::ByteRate | Reason::ConnectionRate => Some(OffenceKind::Limited),
        Reason::MaxConnections | Reason::Allowed => Some(OffenceKind::Limited),
        // A source that has its block already, or none that there could be evidence against.
        Reason::Blocked | Reason::Malformed | Reason::NotIp => None,
        Reason::Unguarded | Reason::Fragment | Reason::FragmentRate | Reason::Trusted => None,
    }
}

#[inline(always)]
fn charge<N: Notes>(notes: &N, packet: &Sample, reason: Reason, accused: &Accused<'_>, now: u64) {
    let Accused { source, thresholds, limits } = *accused;
    let Some(kind) = offence(reason) else { return };
    let (refused, threshold) = match kind {
        OffenceKind::Refused => (true, thresholds.refused),
        OffenceKind::Limited | OffenceKind::Connections => (false, thresholds.limited),
    };
    // Of a service that only monitors, the agent tells who would have been blocked.
    if threshold == 0 {
        return;
    }
    let proven = is_proven(notes, packet);
    let over = matches!(reason, Reason::PacketRate | Reason::ByteRate);
    // Strangers' packets are refused by the million, and none is evidence: nothing is noted of them.
    if refused && !proven || !refused && !is_suspect(notes, source, over && proven, now) {
        return;
    }
    let Some(evidence) = notes.evidence(source) else { return };
    begin_minute(&evidence, now);
    let (word, packets) = match (refused, proven) {
        (true, _) => (&evidence.refused, packet.packets),
        (false, false) => (&evidence.unproven, 1),
        (false, true) => (&evidence.limited, 1),
    };
    if !refused && proven && limits.is_none_or(|limits| is_within(limits, &evidence, packet, now)) {
        return;
    }
    word.add(packets);
    let count = word.load();
    let outweighed = !refused && evidence.unproven.load() > count;
    if proven && count >= threshold && !outweighed && evidence.reported.compare_exchange(0, 1).is_ok() {
        notes.offence(Offence::new(kind, *source, count, evidence.since.load(), now));
    }
}

/// Whether packets of this source are weighed; from now on, if this one is `evident`.
#[inline(always)]
fn is_suspect(notes: &impl Notes, source: &SourceKey, evident: bool, now: u64) -> bool {
    let Some(suspicion) = notes.suspicion(source) else { return false };
    let until = suspicion.load();
    if evident && until < now.wrapping_add(MINUTE / 2) {
        // It does not matter who of several is first.
        let _ = suspicion.compare_exchange(until, now.wrapping_add(MINUTE));
    } else if until <= now {
        let _ = suspicion.compare_exchange(until, 0);
        return false;
    }
    true
}

/// Whether a packet of a connection is within the limits, had there been none but such. One that loses a race to another of its source, on
/// another CPU, counts as within.
#[inline(always)]
fn is_within<W: Word>(limits: &Limits, evidence: &EvidenceState<W>, packet: &Sample, now: u64) -> bool {
    let admits = |rate: &Rate, word: &W, units| {
        rate.is_unlimited() || rate.try_admit(word, word.load(), now, units).unwrap_or(true)
    };
    admits(&limits.packets, &evidence.packets, 1)
        && admits(&limits.bytes, &evidence.bytes, packet.length.into())
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
