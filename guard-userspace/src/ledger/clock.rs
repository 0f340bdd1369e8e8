//! The clock of the times in the ledger: a row that says how the time of day and the kernel's clock stood to each other, in which boot.

use rusqlite::{Connection, OptionalExtension, params};

use super::LedgerError;
use crate::blocks::{Clock, now};

/// A time of day that is off by less is left alone: a clock that is only slowed or hastened is no reason to write all blocks anew.
const SLACK: u64 = 1_000;

pub(super) fn stored(connection: &Connection) -> Result<Option<Clock>, LedgerError> {
    let mut select = connection.prepare_cached("SELECT boot, offset FROM clock")?;
    let clock = select.query_row([], |row| Ok(Clock { boot: row.get(0)?, offset: row.get(1)? }));
    Ok(clock.optional()?)
}

/// Milliseconds to add to a time by this clock for one of the ledger's.
pub(super) fn ahead(connection: &Connection, clock: &Clock) -> Result<i64, LedgerError> {
    Ok(stored(connection)?.map_or(0, |stored| clock.ahead(&stored)))
}

/// Whether the times in the ledger are not those of this clock.
pub(super) fn is_off(connection: &Connection, clock: &Clock) -> Result<bool, LedgerError> {
    let stored = stored(connection)?;
    Ok(stored
        .is_none_or(|stored| !clock.is_same_boot(&stored) || clock.ahead(&stored).unsigned_abs() > SLACK))
}

/// Brings the times in the ledger to this clock, where they are off. Returns what [`ahead`] does afterwards.
pub(super) fn settle(connection: &Connection, clock: &Clock) -> Result<i64, LedgerError> {
    if !is_off(connection, clock)? {
        return ahead(connection, clock);
    }
    match stored(connection)? {
        // The time of day was set: what ends when by the kernel's clock ends then, and only has another name.
        Some(stored) if clock.is_same_boot(&stored) => {
            let later = stored.ahead(clock);
            connection.execute("UPDATE blocks SET until = until + ?1 WHERE until IS NOT NULL", [later])?;
            connection.execute(
                "UPDATE blocks SET since = since + ?1 WHERE since >= ?2",
                params![later, stored.offset],
            )?;
            connection.execute("UPDATE offenders SET until = until + ?1", [later])?;
        }
        // Another boot, whose time of day is all that is known. Of a block from the future at least the length is right.
        Some(_) | None => {
            let now = now().cast_signed();
            connection.execute(
                "UPDATE blocks SET until = until - since + ?1, since = ?1 WHERE since > ?1 AND until IS NOT NULL",
                [now],
            )?;
        }
    }
    connection.execute(
        "INSERT INTO clock (id, boot, offset) VALUES (1, ?1, ?2)
         ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, offset = excluded.offset",
        params![clock.boot, clock.offset],
    )?;
    Ok(0)
}
