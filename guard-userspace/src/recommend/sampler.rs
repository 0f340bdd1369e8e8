//! From the kernel's counts, looked at every few seconds, to what was seen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use guard_common::abi::{SourceKey, Traffic};
use ipnet::IpNet;

use super::seen::{Amounts, Dimension, MINUTE, Peaks, Profile, Seen, TEN, TENS};

/// Who a source is to the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub net: IpNet,
    pub service: String,
    /// Whether the policy lets it in, so that limits concern it.
    pub counts: bool,
}

/// One look at the kernel's counts.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub traffic: &'a [(SourceKey, Traffic)],
    /// Open connections.
    pub open: &'a HashMap<SourceKey, u64>,
    /// Since the look before. A window ends with the first look that is ten seconds or more after its begin.
    pub seconds: u64,
    /// Milliseconds since the epoch.
    pub now: u64,
}

/// What is kept of a source.
#[derive(Debug)]
struct Source {
    known: Known,
    before: Traffic,
    /// Since the window of ten seconds began.
    sums: Amounts,
    /// The windows before, each in its place.
    tens: [Amounts; TENS],
    peaks: Peaks,
    /// The peaks when they were noted last.
    noted: Peaks,
    sent: bool,
    was_dropped: bool,
    /// Second of the last look that found it.
    found: u64,
}

/// Adds up what sources send.
#[derive(Debug, Default)]
pub struct Sampler {
    sources: HashMap<SourceKey, Source>,
    seconds: u64,
    /// Whether the counts were looked at before.
    has_looked: bool,
    /// Whether the look before has left sources out.
    left_out: bool,
}

/// So many sources are kept: those of a flood of forged addresses come once, and the others are there at the next look. A hash of this many
/// fills its 65,536 places.
const ROOM: usize = 57_344;
/// So many of them may be new at one look, beside the first: to ask who a source is takes some calls of the kernel.
const NEW: usize = 8_192;

impl Sampler {
    /// Takes a look into what was seen. `who` tells who a source is, and is asked once; `is_blocked` is asked of those of which all was dropped.
    pub fn look(
        &mut self,
        look: Look<'_>,
        mut who: impl FnMut(&SourceKey) -> Known,
        mut is_blocked: impl FnMut(&SourceKey) -> bool,
        seen: &mut Seen,
    ) {
        let begun = self.seconds / TEN;
        self.seconds += look.seconds;
        let (is_first, seconds) = (!std::mem::replace(&mut self.has_looked, true), self.seconds);
        let mut new = if is_first { ROOM } else { NEW };
        let left_out = std::mem::take(&mut self.left_out);
        for (key, counts) in look.traffic {
            // What was counted before the first look is of no known second, and so is what was counted of those that were left out. An entry
            // that comes later is of this one.
            let before = if is_first || left_out { *counts } else { Traffic::default() };
            let Some(source) = self.source(key, &mut new, || Source::new(who(key), before)) else { continue };
            source.found = seconds;
            let sent = source.since(counts);
            if !source.known.counts || sent == Traffic::default() {
                continue;
            }
            if sent.dropped == sent.packets && is_blocked(key) {
                continue;
            }
            source.add(&sent, seen, look.now);
        }
        for (key, open) in look.open.iter().filter(|(_, open)| **open > 0) {
            let begin = || Source::new(who(key), Traffic::default());
            let Some(source) = self.source(key, &mut new, begin) else { continue };
            source.found = seconds;
            if source.known.counts {
                source.peaks.connections = source.peaks.connections.max(*open);
            }
        }
        if seconds / TEN != begun {
            self.close(place(begun), seen, look.now);
            // A flood brings ever new strangers; of those who count the minute is kept.
            self.sources.retain(|_, source| {
                source.found == seconds || source.known.counts && seconds - source.found <= MINUTE
            });
            if self.left_out {
                // No room for those that were there before: others come in their place.
                self.sources.retain(|_, source| source.found == seconds);
            }
            self.sources.shrink_to(2 * self.sources.len());
        }
        for profile in seen.services.values_mut() {
            profile.seconds += look.seconds;
        }
    }

    /// What is kept of a source; none where there is no room for a new one.
    fn source(
        &mut self,
        key: &SourceKey,
        new: &mut usize,
        begin: impl FnOnce() -> Source,
    ) -> Option<&mut Source> {
        let is_full = self.sources.len() >= ROOM || *new == 0;
        match self.sources.entry(*key) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if is_full => {
                self.left_out = true;
                None
            }
            Entry::Vacant(place) => {
                *new -= 1;
                Some(place.insert(begin()))
            }
        }
    }

    /// The policy is another one: all are asked for again. What they sent goes on counting.
    pub fn ask_again(&mut self, who: impl Fn(&SourceKey) -> Known) {
        for (key, source) in &mut self.sources {
            let known = who(key);
            if known != source.known {
                *source = Source { found: source.found, ..Source::new(known, source.before) };
            }
        }
    }

    /// How many sources are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// Nobody watches any longer: the next look is a first one.
    pub fn end(&mut self, seen: &mut Seen, now: u64) {
        *seen = self.up_to_now(seen, now);
        *self = Self::default();
    }

    /// What was seen, with the windows that are not over.
    pub fn up_to_now(&self, seen: &Seen, now: u64) -> Seen {
        let mut seen = seen.clone();
        for source in self.sources.values() {
            source.note(place(self.seconds / TEN), &mut seen, now);
        }
        seen
    }

    fn close(&mut self, place: usize, seen: &mut Seen, now: u64) {
        for source in self.sources.values_mut() {
            source.peaks = source.note(place, seen, now);
            source.noted = source.peaks;
            source.tens[place] = std::mem::take(&mut source.sums);
        }
    }
}

impl Source {
    fn new(known: Known, before: Traffic) -> Self {
        Self {
            known,
            before,
            sums: Amounts::default(),
            tens: Default::default(),
            peaks: Peaks::default(),
            noted: Peaks::default(),
            sent: false,
            was_dropped: false,
            found: 0,
        }
    }

    /// What it sent since the look before.
    fn since(&mut self, counts: &Traffic) -> Traffic {
        let before = std::mem::replace(&mut self.before, *counts);
        // An entry that has less than before was made anew.
        let before = if counts.packets < before.packets { Traffic::default() } else { before };
        Traffic {
            packets: counts.packets - before.packets,
            bytes: counts.bytes.saturating_sub(before.bytes),
            openings: counts.openings.saturating_sub(before.openings),
            dropped: counts.dropped.saturating_sub(before.dropped),
        }
    }

    fn add(&mut self, sent: &Traffic, seen: &mut Seen, now: u64) {
        let profile = profile(seen, &self.known.service, now);
        profile.packets += sent.packets;
        profile.dropped += sent.dropped;
        profile.sources += u64::from(!std::mem::replace(&mut self.sent, true));
        if sent.dropped > 0 {
            profile.sources_dropped += u64::from(!std::mem::replace(&mut self.was_dropped, true));
        }
        for (sum, amount) in self.sums.iter_mut().zip([sent.packets, sent.bytes, sent.openings]) {
            *sum += amount;
        }
    }

    /// Notes the window of ten seconds that belongs to this place, and returns the peaks with it.
    fn note(&self, place: usize, seen: &mut Seen, now: u64) -> Peaks {
        let before = (0..TENS).filter(|other| *other != place).map(|other| self.tens[other]);
        let minute = before.fold(self.sums, |sum, ten| std::array::from_fn(|at| sum[at] + ten[at]));
        let window = Peaks { in_ten_seconds: self.sums, in_a_minute: minute, connections: 0, at: now };
        let peaks = self.peaks.max(&window);
        if self.sums == Amounts::default() && peaks.connections <= self.noted.connections {
            return peaks;
        }
        let profile = profile(seen, &self.known.service, now);
        if self.sums != Amounts::default() {
            profile.packets_in_ten_seconds.add(self.sums[Dimension::Packets as usize]);
            profile.openings_in_ten_seconds.add(self.sums[Dimension::Openings as usize]);
        }
        profile.note(self.known.net, &self.noted, &peaks);
        peaks
    }
}

/// Where the window of this number is kept.
const fn place(window: u64) -> usize {
    (window % TENS as u64) as usize
}

fn profile<'a>(seen: &'a mut Seen, service: &str, now: u64) -> &'a mut Profile {
    seen.services.entry(service.to_owned()).or_insert_with(|| Profile::begin(now))
}
