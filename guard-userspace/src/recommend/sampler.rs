//! From the kernel's counts, looked at once a second, to what was seen.

use std::collections::{HashMap, HashSet};

use guard_common::abi::{SourceKey, Traffic};
use ipnet::IpNet;

use super::seen::{Dimension, MINUTE, Peaks, Profile, Seen, TEN, WINDOWS};

/// Who a source is to the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub net: IpNet,
    pub service: String,
    /// Whether the policy lets it in, so that limits concern it.
    pub counts: bool,
}

/// What is kept of a source.
#[derive(Debug)]
struct Source {
    known: Known,
    before: Traffic,
    /// Since the window began, by dimension: of ten seconds and of a minute.
    sums: [[u64; WINDOWS.len()]; Dimension::ALL.len()],
    peaks: Peaks,
    is_new: bool,
}

/// Adds up what sources send.
#[derive(Debug, Default)]
pub struct Sampler {
    sources: HashMap<SourceKey, Source>,
    ticks: u64,
}

impl Sampler {
    /// A second is over, of which the table says this; `open` are connections. `who` tells who a source is, and is asked once.
    pub fn tick(
        &mut self,
        traffic: &[(SourceKey, Traffic)],
        open: &HashMap<SourceKey, u64>,
        mut who: impl FnMut(&SourceKey) -> Known,
        seen: &mut Seen,
        now: u64,
    ) {
        self.ticks += 1;
        for (key, counts) in traffic {
            let source = self.sources.entry(*key).or_insert_with(|| Source {
                known: who(key),
                // What came before this looked is of no known second.
                before: *counts,
                sums: Default::default(),
                peaks: Peaks::default(),
                is_new: true,
            });
            let before = std::mem::replace(&mut source.before, *counts);
            if source.known.counts {
                source.add(&before, counts, open.get(key).copied().unwrap_or(0), seen, now);
            }
        }
        for (window, seconds) in WINDOWS.into_iter().enumerate().skip(1) {
            if self.ticks.is_multiple_of(seconds) {
                self.close(window, seen, now);
            }
        }
        if self.ticks.is_multiple_of(WINDOWS[TEN]) {
            // A flood brings ever new strangers; of those who count the minute is kept.
            let all = self.ticks.is_multiple_of(WINDOWS[MINUTE]);
            let there: HashSet<&SourceKey> = traffic.iter().map(|(key, _)| key).collect();
            self.sources.retain(|key, source| there.contains(key) || source.known.counts && !all);
        }
        for profile in seen.services.values_mut() {
            profile.seconds += 1;
        }
    }

    /// The policy is another one: everybody is asked for again.
    pub fn forget(&mut self) {
        self.sources.clear();
    }

    fn close(&mut self, window: usize, seen: &mut Seen, now: u64) {
        for source in self.sources.values_mut() {
            let sums =
                Dimension::ALL.map(|dimension| std::mem::take(&mut source.sums[dimension as usize][window]));
            if sums == [0; Dimension::ALL.len()] {
                continue;
            }
            for (peaks, sum) in source.peaks.sums.iter_mut().zip(sums) {
                peaks[window] = peaks[window].max(sum);
            }
            let profile = profile(seen, &source.known.service, now);
            let [packets, _, openings] = sums;
            match window {
                TEN => {
                    profile.in_ten_seconds.add(packets);
                    profile.openings_in_ten_seconds.add(openings);
                }
                _ => profile.in_a_minute.add(packets),
            }
            profile.note(source.known.net, &source.peaks);
        }
    }
}

impl Source {
    fn add(&mut self, before: &Traffic, counts: &Traffic, open: u64, seen: &mut Seen, now: u64) {
        // An entry that has less than before was made anew.
        let before = if counts.packets < before.packets { Traffic::default() } else { *before };
        let amounts = [
            counts.packets - before.packets,
            counts.bytes.saturating_sub(before.bytes),
            counts.openings.saturating_sub(before.openings),
        ];
        self.peaks.connections = self.peaks.connections.max(open);
        if amounts == [0; 3] {
            return;
        }
        let profile = profile(seen, &self.known.service, now);
        profile.packets += amounts[0];
        profile.sources += u64::from(std::mem::take(&mut self.is_new));
        for (dimension, amount) in amounts.into_iter().enumerate() {
            let peak = &mut self.peaks.sums[dimension][0];
            *peak = (*peak).max(amount);
            self.sums[dimension].iter_mut().skip(1).for_each(|sum| *sum += amount);
        }
    }
}

fn profile<'a>(seen: &'a mut Seen, service: &str, now: u64) -> &'a mut Profile {
    seen.services.entry(service.to_owned()).or_insert_with(|| Profile::begin(now))
}
