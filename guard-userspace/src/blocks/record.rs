//! The ledger as the register uses it: what it does not take is kept, and written as soon as it can be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{Block, Clock, End};
use crate::autoblock::Offender;
use crate::ledger::{Change, Event, EventQuery, Ledger, LedgerError};
use crate::limited;

#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    /// None while it cannot be opened; each use tries again.
    ledger: Option<Ledger>,
    /// What the ledger has not taken yet.
    missed: Option<Change>,
    /// Whether what was in the ledger is in the kernel, and the other way round: not so of a file that is new or was not to be read.
    pub(super) is_reconciled: bool,
    /// The ledger has just learned the right time of day: the kernel goes by what it says.
    pub(super) knows_better: bool,
}

impl Record {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, ledger: None, missed: None, is_reconciled: false, knows_better: false }
    }

    /// Writes a change, and before it what was missed.
    ///
    /// # Errors
    /// With why not; it is kept.
    pub(super) fn write(&mut self, change: Change) -> Result<(), LedgerError> {
        let behind = self.missed.is_some();
        let change = match self.missed.take() {
            None => change,
            Some(mut missed) => {
                let lost = missed.then(change);
                if lost > 0 {
                    limited::warn(limited::Kind::LostEvents, || {
                        format!("{lost} events are lost: the ledger has not been written for too long")
                    });
                }
                missed
            }
        };
        let written = self.with(|ledger| ledger.write(&change));
        match &written {
            Ok(()) if behind => info!("the ledger is written again, with what was missed"),
            Ok(()) => {}
            Err(error) => {
                if !behind {
                    warn!("the ledger is not written: {error}; what it misses is kept until it is");
                }
                self.missed = Some(change);
            }
        }
        written
    }

    /// Closes the file, which brings all that was written into it.
    pub(super) fn close(&mut self) {
        self.ledger = None;
    }

    /// Writes what was missed, and brings the ledger to the clock. Opens a file anew that somebody has put in the place of ours.
    ///
    /// # Errors
    /// With why not.
    pub(super) fn catch_up(&mut self, clock: &Clock) -> Result<(), LedgerError> {
        let looked = self.ledger.as_ref().map_or(Ok(true), Ledger::is_in_place);
        if matches!(looked, Ok(false)) {
            warn!("the ledger {} is gone, and is made anew", self.path.display());
            self.ledger = None;
            self.is_reconciled = false;
        }
        // After a look that failed the open file is written, and the failure is told.
        let looked = looked.map(drop);
        if !self.with(|ledger| ledger.is_off(clock))? && self.missed.is_none() {
            return looked;
        }
        let was_in_doubt = self.with(|ledger| ledger.is_in_doubt(clock))?;
        self.write(Change::new(clock.clone()))?;
        match (was_in_doubt, self.with(|ledger| ledger.is_in_doubt(clock))?) {
            (false, true) => warn!(
                "the time of day is not synchronized since this boot: until it is, each block keeps the time that it had left when the ledger \
                 was written last"
            ),
            (true, false) => {
                info!("the time of day is synchronized: blocks from before this boot end by it");
                (self.is_reconciled, self.knows_better) = (false, true);
            }
            (true, true) | (false, false) => {}
        }
        looked
    }

    /// All blocks, those that have ended included until they are removed; by `clock`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn blocks(&mut self, clock: &Clock) -> Result<Vec<Block>, LedgerError> {
        let blocks = self.with(|ledger| ledger.blocks(clock))?;
        Ok(self.with_missed(blocks, clock))
    }

    /// Those of an address and of prefixes around it, likewise.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn around(&mut self, address: IpAddr, clock: &Clock) -> Result<Vec<Block>, LedgerError> {
        let blocks = self.with(|ledger| ledger.blocks_around(address, clock))?;
        let mut blocks = self.with_missed(blocks, clock);
        blocks.retain(|block| block.net.contains(&address));
        Ok(blocks)
    }

    /// The same in short, in no order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn ends(&mut self, clock: &Clock) -> Result<Vec<End>, LedgerError> {
        if self.missed.is_some() {
            return Ok(self.blocks(clock)?.iter().map(Block::end).collect());
        }
        self.with(|ledger| ledger.ends(clock))
    }

    /// Some of them, from one network on, and where to go on. None while some wait to be written.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn some_ends(
        &mut self,
        clock: &Clock,
        from: &str,
        count: usize,
    ) -> Result<(Vec<End>, String), LedgerError> {
        if self.missed.is_some() {
            return Ok((Vec::new(), from.into()));
        }
        self.with(|ledger| ledger.some_ends(clock, from, count))
    }

    pub(super) fn missed_ends(&self, clock: &Clock) -> Vec<End> {
        self.missed_blocks(clock).iter().map(Block::end).collect()
    }

    /// The blocks that wait to be written; by `clock`.
    pub(super) fn missed_blocks(&self, clock: &Clock) -> Vec<Block> {
        self.with_missed(Vec::new(), clock)
    }

    /// The blocks that have ended by a time of the kernel's clock.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn ended(&mut self, clock: &Clock, kernel_now: u64) -> Result<Vec<Block>, LedgerError> {
        let mut ended = self.with(|ledger| ledger.ended(clock, kernel_now))?;
        if let Some(missed) = &self.missed {
            let known_ended = |block: &Block| {
                let by_now = missed.ended_by.is_some_and(|by| {
                    block.until.is_some_and(|until| !clock.to_kernel(until).is_after(|| by))
                });
                by_now || missed.removed.contains(&block.net)
            };
            ended.retain(|block| !known_ended(block) && !missed.put.contains_key(&(block.net, block.scope)));
            let waiting = self.missed_blocks(clock);
            ended.extend(waiting.into_iter().filter(|block| {
                block.until.is_some_and(|until| !clock.to_kernel(until).is_after(|| kernel_now))
            }));
        }
        Ok(ended)
    }

    /// # Errors
    /// When the file cannot be read.
    pub(super) fn offenders(&mut self, clock: &Clock) -> Result<HashMap<IpNet, Offender>, LedgerError> {
        self.with(|ledger| ledger.offenders(clock))
    }

    /// The events that are asked for, the newest last.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>, LedgerError> {
        let mut events = self.with(|ledger| ledger.events(query))?;
        // They have no numbers yet: who asks for what came after one sees them once they are written.
        let missed = self.missed.iter().filter(|_| query.after.is_none()).flat_map(|missed| &missed.events);
        events
            .extend(missed.filter(|event| query.source.is_none_or(|source| event.concerns(source))).cloned());
        events.drain(..events.len() - query.last.unwrap_or(usize::MAX).min(events.len()));
        Ok(events)
    }

    /// The number of the newest event in the ledger; 0 before the first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn newest_event(&mut self) -> Result<i64, LedgerError> {
        self.with(|ledger| ledger.newest_event())
    }

    fn with_missed(&self, blocks: Vec<Block>, clock: &Clock) -> Vec<Block> {
        let Some(missed) = &self.missed else { return blocks };
        let mut missed = missed.clone();
        missed.then(Change::new(clock.clone()));
        let stays = |block: &Block| !missed.removed.contains(&block.net);
        let mut all: HashMap<_, Block> =
            blocks.into_iter().filter(stays).map(|block| ((block.net, block.scope), block)).collect();
        for (key, block) in missed.found.into_iter().chain(missed.put) {
            let known = all.entry(key).or_insert_with(|| block.clone());
            if known.ends_no_later_than(&block) {
                *known = block;
            }
        }
        let mut all: Vec<Block> = all.into_values().collect();
        all.sort_by_key(|block| (block.since, block.net));
        all
    }

    /// Does something with the ledger, opened if it was not. One that proves to be broken is put aside, and it is done with a new one.
    fn with<T>(&mut self, work: impl Fn(&mut Ledger) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let done = self.ledger().and_then(&work);
        let Err(error) = done else { return done };
        if !error.may_pass() {
            // To be opened again: it may have been mended, or be another.
            self.ledger = None;
        }
        if error.is_broken() { self.ledger().and_then(work) } else { Err(error) }
    }

    fn ledger(&mut self) -> Result<&mut Ledger, LedgerError> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => {
                let ledger = Ledger::open(&self.path)?;
                if let Some(aside) = ledger.moved_aside() {
                    warn!(
                        "the ledger {} could not be read and is now {}; the kernel keeps its blocks",
                        self.path.display(),
                        aside.display()
                    );
                    self.is_reconciled = false;
                }
                ledger
            }
        };
        Ok(self.ledger.insert(ledger))
    }
}
