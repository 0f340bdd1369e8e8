//! The clock of the times in the ledger: a row that says how the time of day and the kernel's clock stood to each other, in which boot.
//!
//! After a boot the time of day is all that is known, and it may be hours off until it is synchronized. Until then the ledger goes by the last
//! time that it knew, as if the machine had been off for no time: each block has the time that was left to it, and none is over too early.
//! Once the time of day is right, blocks from before the boot end when they were to by the time of day, and those made since by the kernel's
//! clock.

use rusqlite::{Connection, OptionalExtension, params};

use super::LedgerError;
use crate::blocks::{Clock, now};
use crate::datapath::boot_now;

/// A time of day that is off by less is left alone: a clock that is only slowed or hastened is no reason to write all blocks anew.
const SLACK: u64 = 1_000;
/// The time is written again when the one that is known is older than this.
const KNOWN_FOR: u64 = 600_000;

/// What the row says.
struct Stored {
    clock: Clock,
    /// The ledger's time when it was written last.
    seen: u64,
    /// Whether the offset is not that of the time of day.
    in_doubt: bool,
}

fn stored(connection: &Connection) -> Result<Option<Stored>, LedgerError> {
    let mut select = connection.prepare_cached("SELECT boot, offset, seen, doubt FROM clock")?;
    let stored = select.query_row([], |row| {
        let clock = Clock { boot: row.get(0)?, offset: row.get(1)? };
        let seen = row.get::<_, i64>(2)?.max(0).cast_unsigned();
        Ok(Stored { clock, seen, in_doubt: row.get(3)? })
    });
    Ok(stored.optional()?)
}

/// Milliseconds to add to a time by this clock for one of the ledger's.
pub(super) fn ahead(connection: &Connection, clock: &Clock) -> Result<i64, LedgerError> {
    Ok(stored(connection)?.map_or(0, |stored| clock.ahead(&stored.clock)))
}

/// Whether the ledger does not go by the time of day of this boot.
pub(super) fn is_in_doubt(connection: &Connection, clock: &Clock) -> Result<bool, LedgerError> {
    Ok(stored(connection)?.is_some_and(|stored| stored.in_doubt && clock.is_same_boot(&stored.clock)))
}

/// Whether the times in the ledger are not those of this clock, or the last time that it knows is long ago.
pub(super) fn is_off(
    connection: &Connection,
    clock: &Clock,
    is_synchronized: bool,
) -> Result<bool, LedgerError> {
    let Some(stored) = stored(connection)? else { return Ok(true) };
    if !clock.is_same_boot(&stored.clock) {
        return Ok(true);
    }
    let is_old = time(&stored.clock).abs_diff(stored.seen) > KNOWN_FOR;
    let is_off =
        if stored.in_doubt { is_synchronized } else { clock.ahead(&stored.clock).unsigned_abs() > SLACK };
    Ok(is_old || is_off)
}

/// Brings the times in the ledger to this clock, where they are off and the clock can be believed. Returns what [`ahead`] does afterwards.
pub(super) fn settle(
    connection: &Connection,
    clock: &Clock,
    is_synchronized: bool,
) -> Result<i64, LedgerError> {
    let stored = stored(connection)?;
    let next = match &stored {
        Some(stored) if clock.is_same_boot(&stored.clock) => {
            settle_within_boot(connection, stored, clock, is_synchronized)?
        }
        // By the time of day this boot may be hours after the last one, or years before it.
        Some(stored) if !is_synchronized && stored.seen > 0 => {
            let offset = stored.seen.min(i64::MAX.cast_unsigned()).cast_signed();
            Stored { clock: Clock { offset, ..clock.clone() }, seen: stored.seen, in_doubt: true }
        }
        Some(_) | None => {
            shorten_future(connection)?;
            Stored { clock: clock.clone(), seen: 0, in_doubt: false }
        }
    };
    connection.execute(
        "INSERT INTO clock (id, boot, offset, seen, doubt) VALUES (1, ?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, offset = excluded.offset, seen = excluded.seen, doubt = excluded.doubt",
        params![next.clock.boot, next.clock.offset, time(&next.clock).cast_signed(), next.in_doubt],
    )?;
    Ok(clock.ahead(&next.clock))
}

fn settle_within_boot(
    connection: &Connection,
    stored: &Stored,
    clock: &Clock,
    is_synchronized: bool,
) -> Result<Stored, LedgerError> {
    let later = stored.clock.ahead(clock);
    let as_it_was = Stored { clock: stored.clock.clone(), seen: stored.seen, in_doubt: stored.in_doubt };
    if stored.in_doubt && is_synchronized {
        // Those of before the boot are by the time of day, which is right now; the others by the kernel's clock.
        connection.execute(
            "UPDATE blocks SET until = until + ?1, since = since + ?1 WHERE since > ?2",
            params![later, stored.clock.offset],
        )?;
        shorten_future(connection)?;
    } else if stored.in_doubt || later.unsigned_abs() <= SLACK {
        return Ok(as_it_was);
    } else {
        // The time of day was set: what ends when by the kernel's clock ends then, and only has another name.
        connection.execute("UPDATE blocks SET until = until + ?1 WHERE until IS NOT NULL", [later])?;
        connection.execute(
            "UPDATE blocks SET since = since + ?1 WHERE since >= ?2",
            params![later, stored.clock.offset],
        )?;
        connection.execute("UPDATE offenders SET until = until + ?1", [later])?;
    }
    Ok(Stored { clock: clock.clone(), in_doubt: false, ..as_it_was })
}

/// Another boot, whose time of day is all that is known. Of a block from the future at least the length is right.
fn shorten_future(connection: &Connection) -> Result<(), LedgerError> {
    let now = now().cast_signed();
    connection.execute(
        "UPDATE blocks SET until = until - since + ?1, since = ?1 WHERE since > ?1 AND until IS NOT NULL",
        [now],
    )?;
    Ok(())
}

/// The time by a clock, at this moment.
fn time(clock: &Clock) -> u64 {
    clock.to_day(boot_now())
}
