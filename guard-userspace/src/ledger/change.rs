//! What is to be written, as one transaction: all of it or nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnet::IpNet;

use super::{Event, Ledger, LedgerError};
use crate::autoblock::Offender;
use crate::blocks::{Block, Clock, Scope, shifted};

/// Events that wait to be written; of more than these the oldest are let go of.
const MOST_EVENTS: usize = 10_000;

/// Changes to the ledger, in the order in which they are made.
#[derive(Clone, Debug)]
pub struct Change {
    /// By which all times of day in here are.
    pub clock: Clock,
    /// Blocks that ended by this time of the kernel's clock go.
    pub ended_by: Option<u64>,
    /// All blocks of these go.
    pub removed: HashSet<IpNet>,
    /// Of two of the same network and scope the one that ends later stays.
    pub put: BTreeMap<(IpNet, Scope), Block>,
    /// What was found in the kernel: of a block that is known, it changes only the end.
    pub found: BTreeMap<(IpNet, Scope), Block>,
    /// None: forgotten.
    pub offenders: HashMap<IpNet, Option<Offender>>,
    pub events: Vec<Event>,
}

impl Change {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            ended_by: None,
            removed: HashSet::new(),
            put: BTreeMap::new(),
            found: BTreeMap::new(),
            offenders: HashMap::new(),
            events: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        let Self { clock: _, ended_by, removed, put, found, offenders, events } = self;
        ended_by.is_none()
            && removed.is_empty()
            && put.is_empty()
            && found.is_empty()
            && offenders.is_empty()
            && events.is_empty()
    }

    /// Makes another change after this one. Returns how many events there was no room for.
    pub fn then(&mut self, next: Self) -> usize {
        let Self { clock, ended_by, removed, put, found, offenders, events } = next;
        self.tell_by(clock);
        self.ended_by = self.ended_by.max(ended_by);
        if let Some(time) = ended_by {
            let goes_on =
                |block: &Block| block.until.is_none_or(|until| self.clock.to_kernel(until).is_after(|| time));
            self.put.retain(|_, block| goes_on(block));
            self.found.retain(|_, block| goes_on(block));
        }
        for net in &removed {
            for scope in [Scope::Host, Scope::Services] {
                self.put.remove(&(*net, scope));
                self.found.remove(&(*net, scope));
            }
        }
        self.removed.extend(removed);
        for (key, block) in put {
            match self.put.get_mut(&key) {
                Some(known) if known.ends_no_later_than(&block) => *known = block,
                Some(_) => {}
                None => drop(self.put.insert(key, block)),
            }
        }
        self.found.extend(found);
        self.offenders.extend(offenders);
        self.events.extend(events);
        let lost = self.events.len().saturating_sub(MOST_EVENTS);
        self.events.drain(..lost);
        lost
    }

    /// Puts all times by another clock.
    fn tell_by(&mut self, clock: Clock) {
        let ahead = self.clock.ahead(&clock);
        if ahead != 0 {
            for block in self.put.values_mut().chain(self.found.values_mut()) {
                block.since = shifted(block.since, ahead);
                block.until = block.until.map(|until| shifted(until, ahead));
            }
        }
        self.clock = clock;
    }
}

impl Ledger {
    /// Makes a change, all of it or nothing.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&mut self, change: &Change) -> Result<(), LedgerError> {
        let Change { clock, ended_by, removed, put, found, offenders, events } = change;
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let ahead = super::clock::settle(&transaction, clock, (self.is_synchronized)())?;
        let in_doubt = super::clock::is_in_doubt(&transaction, clock)?;
        super::blocks::remove_ended(&transaction, ended_by.map(|time| shifted(clock.to_day(time), ahead)))?;
        super::blocks::remove(&transaction, removed)?;
        super::blocks::put(&transaction, put.values(), ahead, in_doubt)?;
        super::blocks::put_found(&transaction, found.values(), ahead, in_doubt)?;
        super::offenders::put(&transaction, offenders, clock.offset.saturating_add(ahead))?;
        super::events::put(&transaction, events)?;
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Origin;

    fn clock(offset: i64) -> Clock {
        Clock { boot: "a".into(), offset }
    }

    fn block(net: &str, until: Option<u64>) -> Block {
        Block {
            net: net.parse().unwrap(),
            scope: Scope::Host,
            origin: Origin::Manual,
            reason: None,
            evidence: None,
            by: "a test".into(),
            since: 100,
            until,
        }
    }

    fn putting(blocks: &[Block], clock: Clock) -> Change {
        let put = blocks.iter().map(|block| ((block.net, block.scope), block.clone())).collect();
        Change { put, ..Change::new(clock) }
    }

    fn removing(net: &str, clock: Clock) -> Change {
        Change { removed: HashSet::from([net.parse().unwrap()]), ..Change::new(clock) }
    }

    #[test]
    fn of_two_blocks_the_later_end_stays() {
        for (first, second, stays) in [
            (Some(5), Some(7), Some(7)),
            (Some(7), Some(5), Some(7)),
            (None, Some(5), None),
            (Some(5), None, None),
        ] {
            let mut change = putting(&[block("10.0.0.1/32", first)], clock(0));
            change.then(putting(&[block("10.0.0.1/32", second)], clock(0)));
            let until: Vec<_> = change.put.values().map(|block| block.until).collect();
            assert_eq!(until, [stays], "{first:?} then {second:?}");
        }
    }

    #[test]
    fn what_is_removed_last_is_gone_and_what_is_put_last_is_there() {
        let mut change = putting(&[block("10.0.0.1/32", None), block("10.0.0.2/32", None)], clock(0));
        change.then(removing("10.0.0.1/32", clock(0)));
        assert_eq!((change.put.len(), change.removed.len()), (1, 1));
        change.then(putting(&[block("10.0.0.1/32", Some(9))], clock(0)));
        assert_eq!((change.put.len(), change.removed.len()), (2, 1), "removed first, then put");
    }

    #[test]
    fn times_follow_a_clock_that_was_set() {
        let mut change = putting(&[block("10.0.0.1/32", Some(5_000))], clock(1_000));
        change.then(Change::new(clock(61_000)));
        let block = change.put.values().next().unwrap();
        assert_eq!((block.since, block.until), (60_100, Some(65_000)));
    }

    #[test]
    fn events_that_wait_are_bounded() {
        let event = crate::blocks::event(crate::ledger::Action::Start, None, "a test", None);
        let events = |count| Change { events: vec![event.clone(); count], ..Change::new(clock(0)) };
        let mut change = events(MOST_EVENTS);
        assert_eq!(change.then(events(3)), 3);
        assert_eq!(change.events.len(), MOST_EVENTS);
    }
}
