//! Which network namespaces a look enters.
//!
//! Anybody may make namespaces by the thousand, and listen in each. So a look enters all those where the guard in the kernel counts
//! connections, or where some were seen; of the others it enters a bounded number for a bounded time, and goes on with the rest at the next look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How much a look may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// For one from time to time: where nothing listens on these ports, and nothing did when it was last looked through, connections
    /// are not asked for. The kernel takes up to milliseconds for each namespace, whatever is in it.
    Little,
    Full,
}

impl Effort {
    /// How many namespaces are entered besides those that have to be. To enter one takes some 0.1 ms.
    const fn entered(self) -> usize {
        match self {
            Self::Little => 128,
            Self::Full => 1024,
        }
    }

    /// How many of them are looked through: milliseconds each, where the kernel's table is large.
    pub(super) const fn looked_through(self) -> usize {
        match self {
            Self::Little => 32,
            Self::Full => 256,
        }
    }

    /// For how long they are entered. Where the machine is busy, or the kernel's table is large, that is fewer of them.
    pub(super) const fn time(self) -> Duration {
        match self {
            Self::Little => Duration::from_millis(200),
            Self::Full => Duration::from_millis(250),
        }
    }
}

/// What is known of the namespaces of this host.
#[derive(Debug, Default)]
pub(super) struct Visits {
    round: u64,
    past: HashMap<u64, Past>,
}

#[derive(Clone, Debug, Default)]
struct Past {
    /// When it was last visited, in looks.
    round: u64,
    /// Whether something listened on one of the ports.
    listened: bool,
    /// The ports whose connections were last looked for.
    looked_for: Option<Arc<BTreeSet<u16>>>,
}

/// The namespaces to enter, in this order, with the files that lead to them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) namespaces: Vec<(u64, Vec<PathBuf>)>,
    /// How many are left for later.
    pub(super) left: usize,
}

impl Visits {
    /// Chooses among those that exist. `needed` are entered in any case.
    pub(super) fn plan(
        &mut self,
        mut found: BTreeMap<u64, Vec<PathBuf>>,
        needed: &BTreeSet<u64>,
        effort: Effort,
    ) -> Plan {
        self.round += 1;
        self.past.retain(|inode, _| found.contains_key(inode));
        let mut namespaces: Vec<_> =
            needed.iter().filter_map(|inode| found.remove(inode).map(|files| (*inode, files))).collect();
        let (mut listening, mut others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(inode, _)| self.past.get(inode).is_some_and(|past| past.listened));
        let last = |(inode, _): &(u64, Vec<PathBuf>)| self.past.get(inode).map_or(0, |past| past.round);
        listening.sort_by_key(last);
        others.sort_by_key(last);
        let all = listening.len() + others.len();
        // By turns: neither kind keeps the other out.
        let (mut listening, mut others) = (listening.into_iter(), others.into_iter());
        let turns = std::iter::from_fn(|| {
            let turn: Vec<_> = [listening.next(), others.next()].into_iter().flatten().collect();
            (!turn.is_empty()).then_some(turn)
        });
        let before = namespaces.len();
        namespaces.extend(turns.flatten().take(effort.entered()));
        let left = all - (namespaces.len() - before);
        Plan { namespaces, left }
    }

    /// Whether the connections to these ports have been looked for.
    pub(super) fn has_looked_for(&self, inode: u64, ports: &BTreeSet<u16>) -> bool {
        let looked_for = self.past.get(&inode).and_then(|past| past.looked_for.as_ref());
        looked_for.is_some_and(|looked_for| ports.is_subset(looked_for))
    }

    /// Notes a visit; `looked_for` are the ports whose connections were looked for, if they were.
    pub(super) fn note(&mut self, inode: u64, listened: bool, looked_for: Option<Arc<BTreeSet<u16>>>) {
        let past = self.past.entry(inode).or_default();
        (past.round, past.listened) = (self.round, listened);
        if looked_for.is_some() {
            past.looked_for = looked_for;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(inodes: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Vec<PathBuf>> {
        inodes.into_iter().map(|inode| (inode, Vec::new())).collect()
    }

    fn entered(plan: &Plan) -> Vec<u64> {
        plan.namespaces.iter().map(|(inode, _)| *inode).collect()
    }

    #[test]
    fn every_namespace_gets_its_turn_and_the_needed_ones_come_first() {
        let mut visits = Visits::default();
        let (all, needed) = (1..=1000, BTreeSet::from([997, 1500]));
        let mut seen = BTreeSet::new();
        for round in 0..8 {
            let plan = visits.plan(found(all.clone()), &needed, Effort::Little);
            let inodes = entered(&plan);
            assert_eq!((inodes[0], inodes.len(), plan.left), (997, 129, 1000 - 129), "{round}");
            for inode in &inodes {
                visits.note(*inode, false, None);
            }
            seen.extend(inodes);
        }
        assert_eq!(seen.len(), 1000);
        let plan = visits.plan(found(1..=100), &BTreeSet::new(), Effort::Little);
        assert_eq!((plan.namespaces.len(), plan.left), (100, 0));
    }

    #[test]
    fn namespaces_with_listeners_do_not_keep_the_others_out() {
        let mut visits = Visits::default();
        for inode in 1..=500 {
            visits.note(inode, true, None);
        }
        let inodes = entered(&visits.plan(found(1..=1000), &BTreeSet::new(), Effort::Little));
        let listening = inodes.iter().filter(|inode| **inode <= 500).count();
        assert_eq!((listening, inodes.len()), (64, 128));
    }

    #[test]
    fn what_was_looked_for_is_known_until_the_namespace_is_gone() {
        let mut visits = Visits::default();
        let ports = Arc::new(BTreeSet::from([8000, 8001]));
        assert!(!visits.has_looked_for(7, &ports));
        visits.note(7, false, Some(Arc::clone(&ports)));
        visits.note(7, false, None);
        assert!(visits.has_looked_for(7, &BTreeSet::from([8001])));
        assert!(!visits.has_looked_for(7, &BTreeSet::from([8001, 9000])));
        visits.plan(found([8]), &BTreeSet::new(), Effort::Little);
        assert!(!visits.has_looked_for(7, &ports));
    }
}
