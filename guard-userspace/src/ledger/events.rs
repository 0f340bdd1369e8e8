//! The audit log.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ledger, LedgerError};
use crate::limited;

/// The log is kept within both bounds; what is older goes.
const MOST: i64 = 100_000;
const OLDEST: Duration = Duration::from_secs(90 * 24 * 3600);
/// These stay however old they are: a time of day that was set wrongly is no reason to forget everything.
const ALWAYS: i64 = 1_000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Block,
    Unblock,
    /// A block that came to its end.
    Expire,
    Start,
    Stop,
    Reload,
    Apply,
    Confirm,
    Detach,
    /// The program was put back on an interface that somebody took it off.
    Attach,
    /// Connections that were closed.
    Kill,
    /// Entries of blocks that another program had changed in the kernel.
    Mend,
}

/// Something that was done or refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows with each; none before it is in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Milliseconds since the epoch.
    pub at: u64,
    pub action: Action,
    pub net: Option<IpNet>,
    pub by: String,
    /// `done`, or why not.
    pub outcome: String,
    pub details: Option<Value>,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventQuery {
    /// Those about this address: about itself or about a network around it.
    pub source: Option<IpAddr>,
    /// The last so many; none: all.
    pub last: Option<usize>,
    /// Only those with a higher number than this.
    pub after: Option<i64>,
}

impl Action {
    const ALL: [Self; 12] = [
        Self::Block,
        Self::Unblock,
        Self::Expire,
        Self::Start,
        Self::Stop,
        Self::Reload,
        Self::Apply,
        Self::Confirm,
        Self::Detach,
        Self::Attach,
        Self::Kill,
        Self::Mend,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Unblock => "unblock",
            Self::Expire => "expire",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reload => "reload",
            Self::Apply => "apply",
            Self::Confirm => "confirm",
            Self::Detach => "detach",
            Self::Attach => "attach",
            Self::Kill => "kill",
            Self::Mend => "mend",
        }
    }
}

/// Adds events, and lets go of those past the bounds.
pub(super) fn put(connection: &Connection, events: &[Event]) -> Result<(), LedgerError> {
    let Some(newest) = events.iter().map(|event| event.at).max() else { return Ok(()) };
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (at, action, net, by, outcome, details) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for event in events {
        insert.execute(params![
            event.at.cast_signed(),
            event.action.name(),
            event.net.map(|net| net.to_string()),
            event.by,
            event.outcome,
            event.details.as_ref().map(ToString::to_string),
        ])?;
    }
    let oldest = newest.saturating_sub(u64::try_from(OLDEST.as_millis()).unwrap_or(u64::MAX));
    connection.execute(
        "DELETE FROM events WHERE at < ?1 AND id <= (SELECT max(id) FROM events) - ?2",
        params![oldest.cast_signed(), ALWAYS],
    )?;
    connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1", [MOST])?;
    Ok(())
}

impl Ledger {
    /// The events that are asked for, the newest last.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn events(&self, query: &EventQuery) -> Result<Vec<Event>, LedgerError> {
        let mut select = self.connection.prepare_cached(
            "SELECT at, action, net, by, outcome, details, id FROM events WHERE id > ?1 ORDER BY id DESC",
        )?;
        let mut rows = select.query([query.after.unwrap_or(i64::MIN)])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            if query.last.is_some_and(|last| events.len() >= last) {
                break;
            }
            let (action, net): (String, Option<String>) = (row.get(1)?, row.get(2)?);
            let net: Option<IpNet> = net.and_then(|net| net.parse().ok());
            let Some(action) = Action::ALL.into_iter().find(|known| known.name() == action) else {
                // Of a later build: the others are worth seeing all the same.
                limited::warn(limited::Kind::Row, || {
                    format!("an event of a kind that this build does not know ({action}) is left out")
                });
                continue;
            };
            let details: Option<String> = row.get(5)?;
            let event = Event {
                id: Some(row.get(6)?),
                at: row.get::<_, i64>(0)?.cast_unsigned(),
                action,
                net,
                by: row.get(3)?,
                outcome: row.get(4)?,
                details: details.and_then(|details| serde_json::from_str(&details).ok()),
            };
            if query.source.is_none_or(|source| event.concerns(source)) {
                events.push(event);
            }
        }
        events.reverse();
        Ok(events)
    }
}

impl Ledger {
    /// The number of the newest event; 0 before the first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest_event(&self) -> Result<i64, LedgerError> {
        let mut select = self.connection.prepare_cached("SELECT coalesce(max(id), 0) FROM events")?;
        Ok(select.query_row([], |row| row.get(0))?)
    }
}

impl Event {
    /// Whether it is about an address: itself, a network around it, or a list that names one of these among its first.
    pub fn concerns(&self, source: IpAddr) -> bool {
        let first = self.details.as_ref().and_then(|details| details["first"].as_array());
        let first = first.into_iter().flatten().filter_map(|net| net.as_str()?.parse().ok());
        self.net.into_iter().chain(first).any(|net: IpNet| net.contains(&source))
    }
}
