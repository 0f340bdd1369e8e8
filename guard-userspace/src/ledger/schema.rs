//! The tables, and how an older file becomes one of today.

use std::path::Path;

use rusqlite::Connection;

use super::LedgerError;

/// Each step brings a file from the version of its index to the next.
pub(super) const STEPS: [&str; 3] = [
    "
    CREATE TABLE blocks (
        net      TEXT NOT NULL,     -- address or prefix
        scope    TEXT NOT NULL,     -- host, services
        origin   TEXT NOT NULL,     -- manual, auto
        reason   TEXT,
        evidence TEXT,              -- JSON
        by       TEXT NOT NULL,
        since    INTEGER NOT NULL,  -- milliseconds since the epoch, as all times
        until    INTEGER,           -- none: forever
        PRIMARY KEY (net, scope)
    ) WITHOUT ROWID;
    CREATE INDEX blocks_until ON blocks (until) WHERE until IS NOT NULL;
    CREATE TABLE events (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        at      INTEGER NOT NULL,
        action  TEXT NOT NULL,
        net     TEXT,
        by      TEXT NOT NULL,
        outcome TEXT NOT NULL,      -- done, or why not
        details TEXT                -- JSON
    );
    CREATE INDEX events_at ON events (at);
",
    "
    CREATE TABLE clock (
        id     INTEGER PRIMARY KEY CHECK (id = 1),
        boot   TEXT NOT NULL,       -- what the kernel calls the boot
        offset INTEGER NOT NULL     -- milliseconds from the kernel's clock to the time of day
    );
    CREATE TABLE offenders (
        net     TEXT PRIMARY KEY NOT NULL,
        strikes INTEGER NOT NULL,   -- automatic blocks
        until   INTEGER NOT NULL    -- when the last of them ended, or will end
    ) WITHOUT ROWID;
",
    "
    -- The time of day when the ledger was written last; and whether the offset is what it was then, since the time of day after a boot was
    -- not to be believed yet.
    ALTER TABLE clock ADD COLUMN seen  INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE clock ADD COLUMN doubt INTEGER NOT NULL DEFAULT 0;
    UPDATE clock SET seen = coalesce((SELECT max(at) FROM events), 0);
",
];

pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = STEPS.len() as u32;
    if found > known {
        return Err(LedgerError::Newer { path: path.into(), found, known });
    }
    for step in &STEPS[found as usize..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}
