//! What happened: what was done, from the ledger, and what was dropped, as the kernel samples it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::drops::Dropped;
use crate::ledger::Event;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// Something that was done or refused.
    Action(Event),
    /// A packet that was dropped, or would be, and how many like it.
    Drop(Dropped),
}

impl Entry {
    /// Milliseconds since the epoch.
    pub const fn at(&self) -> u64 {
        match self {
            Self::Action(event) => event.at,
            Self::Drop(dropped) => dropped.at,
        }
    }
}

/// Which are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryQuery {
    /// Those about this address.
    pub source: Option<IpAddr>,
    /// The last so many; none: all.
    pub last: Option<usize>,
    /// Only actions with a higher number.
    pub after_action: Option<i64>,
    /// Only drops with this number or a higher one.
    pub from_drop: Option<u64>,
    /// Milliseconds to wait for something new, if there is nothing.
    pub wait: Option<u64>,
}

/// An answer, and how to ask for what comes after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The newest last.
    pub entries: Vec<Entry>,
    pub next_action: i64,
    pub next_drop: u64,
}

impl Page {
    /// Of both kinds, in the order of time, the last so many.
    pub fn new(
        actions: Vec<Event>,
        drops: Vec<Dropped>,
        last: Option<usize>,
        next_action: i64,
        next_drop: u64,
    ) -> Self {
        let actions = actions.into_iter().map(Entry::Action);
        let mut entries: Vec<Entry> = actions.chain(drops.into_iter().map(Entry::Drop)).collect();
        // Stable: actions of one moment stay in their order.
        entries.sort_by_key(Entry::at);
        entries.drain(..entries.len() - last.unwrap_or(usize::MAX).min(entries.len()));
        Self { entries, next_action, next_drop }
    }
}
