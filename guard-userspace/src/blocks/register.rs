//! Blocking and unblocking, in the kernel first and then in the ledger: a full disk lets nobody in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use guard_common::abi;
use ipnet::IpNet;
use tracing::warn;

use super::made::{automatic_block, found as found_in_kernel};
use super::mend::Care;
use super::nested::Ends;
use super::record::Record;
use super::told::{Begun, Told};
use super::{Block, BlockCounts, Clock, End, Scope, notes};
use crate::autoblock::{self, Decision, Exemption, InForce, Kind, Memory, Offence, Pardons, Rules};
use crate::datapath::{Error, Maps, boot_now};
use crate::ledger::{Change, Event, EventQuery, LedgerError};
use crate::limited;

/// The blocks of this host, and the sources that were blocked automatically.
#[derive(Debug)]
pub struct Register {
    pub(super) told: Told,
    pub(super) record: Record,
    memory: Memory,
    pardons: Pardons,
    /// Blocks that were added since this was opened.
    added: BlockCounts,
    pub(super) care: Care,
}

/// What became of a block that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Blocked {
    /// How many were not blocked before.
    pub added: usize,
    /// How many were, and stay so for as long as the longer of the two says.
    pub already: usize,
    /// Why the ledger could not be written; the blocks hold, but are lost at the next boot.
    pub not_recorded: Option<String>,
}

/// What became of blocks that were to end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unblocked {
    /// How many were blocked, and are not any longer.
    pub unblocked: usize,
    /// Why the ledger could not be written; what is let in is blocked again at the next boot.
    pub not_recorded: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Kernel(#[from] Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{net} is not blocked{}", .around.map(|outer| format!("; {outer} around it is: unblock that")).unwrap_or_default())]
    NotBlocked { net: IpNet, around: Option<IpNet> },
}

impl Register {
    /// Knows nothing yet: see [`begin`](Self::begin).
    pub fn new(path: PathBuf) -> Self {
        Self {
            told: Told::default(),
            record: Record::new(path),
            memory: Memory::default(),
            pardons: Pardons::default(),
            added: BlockCounts::default(),
            care: Care::default(),
        }
    }

    /// As [`new`](Self::new), begun.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn open(path: PathBuf, maps: &mut Maps) -> Result<Self, Error> {
        let mut register = Self::new(path);
        register.begin(maps)?;
        Ok(register)
    }

    /// Reads the ledger and brings the kernel to what it says. What only the kernel knows is taken over into the ledger: a command may
    /// have blocked when no ledger could be written.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read or written. A ledger that cannot be read is a warning.
    pub fn begin(&mut self, maps: &mut Maps) -> Result<(), Error> {
        if let Err(error) = self.reconcile(maps, &Clock::now())? {
            warn!("blocks are only kept by the kernel: {error}");
        }
        self.not_in_force().iter().for_each(|problem| warn!("{problem}"));
        Ok(())
    }

    /// What is to be told of blocks that the tables have no room for; none where all fit.
    pub fn not_in_force(&self) -> Option<String> {
        self.told.left_out().problem()
    }

    /// Closes the ledger: the agent ends. Threads that still wait keep the rest of it alive.
    pub fn close(&mut self) {
        self.record.close();
    }

    /// Blocks, all or none. What is blocked already stays so for the longer of the two times.
    ///
    /// # Errors
    /// When the kernel does not take it; nothing has changed then.
    pub fn block(&mut self, maps: &mut Maps, mut blocks: Vec<Block>) -> Result<Blocked, Error> {
        let clock = Clock::now();
        for block in &mut blocks {
            block.until = block.until.map(|until| clock.whole(until));
        }
        let added = self.told.block(maps, &ends(blocks.iter().map(Block::end), &clock))?;
        self.added.added_manual += added as u64;
        let already = blocks.len() - added;
        let events = notes::blocked(&blocks).into_iter().collect();
        let put = blocks.into_iter().map(|block| ((block.net, block.scope), block)).collect();
        let not_recorded = self.write(Change { put, events, ..Change::new(clock) });
        Ok(Blocked { added, already, not_recorded })
    }

    /// The offences that this one is, each with the network to block.
    pub fn targets(&self, rules: &Rules<'_>, offence: &Offence) -> Vec<Offence> {
        autoblock::targets(rules, offence, &self.memory, (boot_now() / 1_000_000).cast_signed())
    }

    /// What would become of an offence, if its service enforced.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn consider(&mut self, maps: &Maps, rules: &Rules<'_>, offence: &Offence) -> Result<Decision, Error> {
        let at = boot_now();
        let time = (at / 1_000_000).cast_signed();
        let ends = self.told.ends(maps, &offence.source)?;
        let left = |until: abi::End| {
            if until == abi::End::FOREVER {
                return Duration::MAX;
            }
            Duration::from_nanos(until.nanoseconds().saturating_sub(at))
        };
        let in_force = InForce { host: left(ends.host), services: left(ends.services) };
        let decision = autoblock::decide(rules, offence, &self.memory, in_force, time);
        let Offence { source, service, kind, count, .. } = offence;
        let is_pardoned = *kind == Kind::Connections && self.pardons.cover(source, service, *count);
        if is_pardoned && matches!(decision, Decision::Block(_)) {
            return Ok(Decision::Exempt(Exemption::Pardoned));
        }
        Ok(decision)
    }

    /// Decides on an offence, and blocks the source if that is the decision.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read, or do not take the block.
    pub fn judge(
        &mut self,
        maps: &mut Maps,
        rules: &Rules<'_>,
        offence: &Offence,
    ) -> Result<(Decision, Option<Blocked>), Error> {
        let clock = Clock::now();
        let at = boot_now();
        let time = (at / 1_000_000).cast_signed();
        let decision = self.consider(maps, rules, offence)?;
        let Decision::Block(automatic) = &decision else { return Ok((decision, None)) };
        let blocks = [automatic_block(automatic, &clock, at)];
        let wanted = ends(blocks.iter().map(Block::end), &clock);
        let until = wanted.values().map(|ends| ends.services.nanoseconds() / 1_000_000).max().unwrap_or(0);
        let added = self.told.block(maps, &wanted)?;
        self.added.added_auto += 1;
        let offenders = self.memory.note(automatic, time, until.cast_signed(), rules.autoblock.forget_after);
        let [block] = blocks;
        let events = notes::blocked(std::slice::from_ref(&block)).into_iter().collect();
        let put = BTreeMap::from([((block.net, block.scope), block)]);
        let not_recorded = self.write(Change { put, events, offenders, ..Change::new(clock) });
        Ok((decision, Some(Blocked { added, already: 1 - added, not_recorded })))
    }

    /// Whom a look has found with too many connections: others are not pardoned any longer.
    pub fn keep_pardons(&mut self, offenders: &HashSet<IpNet>) {
        self.pardons.keep(offenders);
    }

    /// Ends the blocks of these networks. A source that was blocked automatically is let in, and remembered; what it has open at this moment
    /// is no offence: `open` tells how many connections that are, by service.
    ///
    /// # Errors
    /// When the only one was not blocked, or the kernel refuses; nothing has changed then.
    pub fn unblock(
        &mut self,
        maps: &mut Maps,
        nets: &[IpNet],
        by: &str,
        mut open: impl FnMut(&IpNet) -> BTreeMap<String, u64>,
    ) -> Result<Unblocked, RegisterError> {
        let clock = Clock::now();
        let ended = self.told.end(maps, nets)?;
        if let ([net], true) = (nets, ended.is_empty()) {
            return Err(RegisterError::NotBlocked { net: *net, around: self.told.around(net) });
        }
        let unblocked = ended.len();
        let offenders = self.memory.let_in(&ended, (boot_now() / 1_000_000).cast_signed());
        for net in offenders.keys() {
            self.pardons.forget(net);
            open(net).iter().for_each(|(service, open)| self.pardons.grant(*net, service, *open));
        }
        let events = notes::unblocked(ended.iter().copied().collect(), by).into_iter().collect();
        let not_recorded = self.write(Change { removed: ended, events, offenders, ..Change::new(clock) });
        Ok(Unblocked { unblocked, not_recorded })
    }

    /// Removes what has come to its end; the kernel has not held to it since. Writes what the ledger has missed, and takes over what is in
    /// a ledger that could not be read before. Returns how many blocks have ended.
    ///
    /// # Errors
    /// When the ledger or the kernel's tables cannot be read or written.
    pub fn sweep(&mut self, maps: &mut Maps) -> Result<usize, RegisterError> {
        let clock = Clock::now();
        let caught_up = self.record.catch_up(&clock);
        if !self.record.is_reconciled || self.told.has_room_for_more() {
            self.reconcile(maps, &clock)??;
        }
        let at = boot_now();
        let ended = self.record.ended(&clock, at)?;
        if !ended.is_empty() {
            self.told.sweep(maps, ended.iter().map(|block| &block.net))?;
            let events = notes::expired(&ended).into_iter().collect();
            self.record.write(Change { ended_by: Some(at), events, ..Change::new(clock) })?;
        }
        caught_up?;
        Ok(ended.len())
    }

    /// The blocks with what each has dropped, those that have ended left out. Of a ledger that cannot be read, what the kernel knows.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn list(&mut self, maps: &Maps) -> Result<Vec<(Block, u64)>, RegisterError> {
        let (clock, at) = (Clock::now(), boot_now());
        let entries: HashMap<IpNet, abi::Block> = maps.blocks()?.into_iter().collect();
        let blocks = self.record.blocks(&clock).unwrap_or_else(|error| {
            limited::warn(limited::Kind::NotListed, || {
                format!("the blocks are those of the kernel: {error}")
            });
            let missed = self.record.missed_blocks(&clock);
            let known: HashSet<IpNet> = missed.iter().map(|block| block.net).collect();
            let entries = entries.iter().filter(|(net, _)| !known.contains(net));
            let ends = entries
                .map(|(net, entry)| (*net, Ends { host: entry.host_until, services: entry.services_until }));
            let mut blocks: Vec<_> =
                ends.flat_map(|found| found_in_kernel(found, &clock, at)).chain(missed).collect();
            blocks.sort_by_key(|block| (block.since, block.net));
            blocks
        });
        let live = blocks
            .into_iter()
            .filter(|block| block.until.is_none_or(|until| clock.to_kernel(until).is_after(|| at)));
        let with_dropped = |block: Block| {
            let dropped = entries.get(&block.net).map_or(0, |entry| entry.dropped);
            (block, dropped)
        };
        Ok(live.map(with_dropped).collect())
    }

    /// The blocks of an address and of prefixes around it, with what each has dropped, the longest prefix first.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn around(&mut self, maps: &Maps, address: IpAddr) -> Result<Vec<(Block, u64)>, RegisterError> {
        let (clock, at) = (Clock::now(), boot_now());
        let known = self.record.around(address, &clock).unwrap_or_else(|error| {
            limited::warn(limited::Kind::NotListed, || {
                format!("the blocks around {address} are not known: {error}")
            });
            Vec::new()
        });
        let live = known
            .into_iter()
            .filter(|block| block.until.is_none_or(|until| clock.to_kernel(until).is_after(|| at)));
        let mut blocks = Vec::new();
        for block in live {
            let dropped = maps.block(&block.net)?.map_or(0, |entry| entry.dropped);
            blocks.push((block, dropped));
        }
        blocks.sort_by_key(|(block, _)| Reverse(block.net.prefix_len()));
        Ok(blocks)
    }

    /// Adds to the audit log.
    pub fn record(&mut self, event: Event) {
        self.write(Change { events: vec![event], ..Change::new(Clock::now()) });
    }

    /// # Errors
    /// When the ledger cannot be read.
    pub fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>, LedgerError> {
        self.record.events(query)
    }

    /// The number of the newest event in the ledger; 0 before the first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn newest_event(&mut self) -> Result<i64, LedgerError> {
        self.record.newest_event()
    }

    /// How much is blocked. A source that is blocked by hand and automatically counts as the latter.
    pub fn counts(&self) -> BlockCounts {
        let auto = self.memory.in_force((boot_now() / 1_000_000).cast_signed()) as u64;
        BlockCounts { auto, manual: (self.told.len() as u64).saturating_sub(auto), ..self.added }
    }

    /// Brings kernel and ledger to what either knows: the longer of two times holds. The outer error is the kernel's, the inner one the
    /// ledger's; then the blocks are those of the kernel.
    pub(super) fn reconcile(
        &mut self,
        maps: &mut Maps,
        clock: &Clock,
    ) -> Result<Result<(), LedgerError>, Error> {
        let at = boot_now();
        let caught_up = self.record.catch_up(clock);
        let read = self.record.ends(clock).and_then(|ends| Ok((ends, self.record.offenders(clock)?)));
        let read = read.map(|(ends, offenders)| {
            self.memory.learn(offenders);
            ends
        });
        let (recorded, read) = match read {
            Ok(ends) => (ends, Ok(())),
            Err(error) => (self.record.missed_ends(clock), Err(error)),
        };
        let is_ended =
            |until: &Option<u64>| until.is_some_and(|until| !clock.to_kernel(until).is_after(|| at));
        let knows_better = std::mem::take(&mut self.record.knows_better);
        let settled = recorded.iter().filter(|_| knows_better).map(|(net, ..)| *net).collect();
        let ended_by = recorded.iter().any(|(.., until)| is_ended(until)).then_some(at);
        let live = recorded.into_iter().filter(|(.., until)| !is_ended(until));
        let Begun { told, found, mended } = Told::begin(maps, ends(live, clock), &settled)?;
        self.told = told;
        self.care.mended = mended;
        if let Err(error) = read.and(caught_up) {
            return Ok(Err(error));
        }
        self.record.is_reconciled = true;
        let found: BTreeMap<_, _> = found
            .into_iter()
            .flat_map(|found| found_in_kernel(found, clock, at))
            .map(|block| ((block.net, block.scope), block))
            .collect();
        let change = Change { ended_by, found, ..Change::new(clock.clone()) };
        Ok(if change.is_empty() { Ok(()) } else { self.record.write(change) })
    }

    /// Returns why not.
    fn write(&mut self, change: Change) -> Option<String> {
        self.record.write(change).err().map(|error| error.to_string())
    }
}

/// The ends of blocks by the kernel's clock, for each network.
pub(super) fn ends(blocks: impl Iterator<Item = End>, clock: &Clock) -> HashMap<IpNet, Ends> {
    let mut ends: HashMap<IpNet, Ends> = HashMap::new();
    for (net, scope, until) in blocks {
        let until = until.map_or(abi::End::FOREVER, |until| clock.to_kernel(until));
        let host = match scope {
            Scope::Host => until,
            Scope::Services => abi::End::NONE,
        };
        let known = ends.entry(net).or_default();
        *known = known.max(Ends { host, services: until });
    }
    ends
}
