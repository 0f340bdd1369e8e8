use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ipnet::IpNet;

use super::Automatic;

/// A source that was blocked automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// How often.
    pub strikes: u32,
    /// When the last block ended, or will end.
    pub until: i64,
}

/// Who was blocked how often, until it is forgotten. Bounded: an attacker with many addresses takes the place of those whose blocks
/// ended first, who then begin anew.
#[derive(Debug)]
pub struct Memory {
    offenders: HashMap<IpNet, Offender>,
    most: usize,
}

/// About 10 MB.
const MOST: usize = 100_000;

/// What the ledger is to write of each: none is forgotten.
type Changed = HashMap<IpNet, Option<Offender>>;

impl Default for Memory {
    fn default() -> Self {
        Self::with_room(MOST)
    }
}

impl Memory {
    pub fn with_room(most: usize) -> Self {
        Self { offenders: HashMap::new(), most: most.max(1) }
    }

    /// Takes over what the ledger knows, beside what is known here.
    pub fn learn(&mut self, offenders: HashMap<IpNet, Offender>) {
        for (net, offender) in offenders {
            self.offenders.entry(net).or_insert(offender);
        }
        self.make_room();
    }

    pub fn len(&self) -> usize {
        self.offenders.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offenders.is_empty()
    }

    /// An offender that is not forgotten at `now`.
    pub fn get(&self, net: &IpNet, now: i64, forget_after: Duration) -> Option<Offender> {
        self.offenders.get(net).copied().filter(|offender| !offender.is_forgotten(now, forget_after))
    }

    /// Whether an offender within a network, other than `but`, is not forgotten at `now`.
    pub fn has_within(&self, net: &IpNet, but: &IpNet, now: i64, forget_after: Duration) -> bool {
        let is_other = |(known, offender): (&IpNet, &Offender)| {
            known != but && net.contains(known) && !offender.is_forgotten(now, forget_after)
        };
        self.offenders.iter().any(is_other)
    }

    /// How many are blocked at `now`.
    pub fn in_force(&self, now: i64) -> usize {
        self.offenders.values().filter(|offender| offender.until > now).count()
    }

    /// Remembers a block that is made now and ends in the kernel at `until`, and forgets whom it may.
    pub fn note(&mut self, block: &Automatic, now: i64, until: i64, forget_after: Duration) -> Changed {
        let before: HashSet<IpNet> = self.forgotten(now, forget_after);
        self.offenders.retain(|net, _| !before.contains(net));
        let offender = Offender { strikes: block.strike, until };
        self.offenders.insert(block.net, offender);
        let mut changed: Changed =
            before.into_iter().chain(self.make_room()).map(|net| (net, None)).collect();
        changed.insert(block.net, Some(offender));
        changed
    }

    /// Blocks that somebody has ended by hand: their strikes stay.
    pub fn let_in(&mut self, nets: &HashSet<IpNet>, now: i64) -> Changed {
        let mut changed = Changed::new();
        for net in nets {
            if let Some(offender) = self.offenders.get_mut(net).filter(|offender| offender.until > now) {
                offender.until = now;
                changed.insert(*net, Some(*offender));
            }
        }
        changed
    }

    fn forgotten(&self, now: i64, forget_after: Duration) -> HashSet<IpNet> {
        let forgotten =
            self.offenders.iter().filter(|(_, offender)| offender.is_forgotten(now, forget_after));
        forgotten.map(|(net, _)| *net).collect()
    }

    /// Forgets those whose blocks end first, an eighth of all at once so that it is not asked for each time.
    fn make_room(&mut self) -> Vec<IpNet> {
        if self.offenders.len() <= self.most {
            return Vec::new();
        }
        let mut by_end: Vec<_> =
            self.offenders.iter().map(|(net, offender)| (offender.until, *net)).collect();
        by_end.sort_unstable();
        by_end.truncate(self.offenders.len() - (self.most - self.most / 8));
        let gone: Vec<IpNet> = by_end.into_iter().map(|(_, net)| net).collect();
        for net in &gone {
            self.offenders.remove(net);
        }
        gone
    }
}

impl Offender {
    fn is_forgotten(&self, now: i64, forget_after: Duration) -> bool {
        now >= self.until.saturating_add(millis(forget_after))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
