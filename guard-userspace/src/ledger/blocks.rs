//! The blocks in the ledger.

use std::collections::HashSet;

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{Connection, Row, params};

use super::{Ledger, LedgerError};
use crate::blocks::{Block, Clock, End, Origin, Scope, shifted};
use crate::limited;

impl Ledger {
    /// All blocks, those that have ended included until they are removed. What cannot be read is left out, with a warning. Times of day
    /// are by `clock`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn blocks(&self, clock: &Clock) -> Result<Vec<Block>, LedgerError> {
        let behind = -super::clock::ahead(&self.connection, clock)?;
        let mut select = self.connection.prepare_cached("SELECT * FROM blocks ORDER BY since, net")?;
        read(select.query([])?, behind)
    }

    /// Those of an address and of prefixes around it, likewise.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn blocks_around(&self, address: IpAddr, clock: &Clock) -> Result<Vec<Block>, LedgerError> {
        let behind = -super::clock::ahead(&self.connection, clock)?;
        let mut select = self.connection.prepare_cached("SELECT * FROM blocks WHERE net = ?1")?;
        let mut found = Vec::new();
        let mut around = Some(IpNet::from(address));
        while let Some(net) = around {
            found.extend(read(select.query([net.to_string()])?, behind)?);
            around = net.supernet();
        }
        Ok(found)
    }

    /// The same in short, in no order: a million of them are read when guard starts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ends(&self, clock: &Clock) -> Result<Vec<End>, LedgerError> {
        let behind = -super::clock::ahead(&self.connection, clock)?;
        let mut select = self.connection.prepare_cached("SELECT net, scope, until FROM blocks")?;
        Ok(read_ends(select.query([])?, behind)?.0)
    }

    /// Some of them, from a network on in the order of the table, and the network after which to go on; the beginning again after the last.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn some_ends(
        &self,
        clock: &Clock,
        from: &str,
        count: usize,
    ) -> Result<(Vec<End>, String), LedgerError> {
        let behind = -super::clock::ahead(&self.connection, clock)?;
        let mut select = self
            .connection
            .prepare_cached("SELECT net, scope, until FROM blocks WHERE net > ?1 ORDER BY net LIMIT ?2")?;
        let (ends, last) = read_ends(select.query(params![from, count as i64])?, behind)?;
        let next = if ends.len() < count { String::new() } else { last };
        Ok((ends, next))
    }

    /// The blocks that have ended by a time of the kernel's clock.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ended(&self, clock: &Clock, kernel_now: u64) -> Result<Vec<Block>, LedgerError> {
        let ahead = super::clock::ahead(&self.connection, clock)?;
        let time = shifted(clock.to_day(kernel_now), ahead);
        let mut select = self.connection.prepare_cached("SELECT * FROM blocks WHERE until <= ?1")?;
        read(select.query([time.cast_signed()])?, -ahead)
    }
}

/// The ends, and the last network.
fn read_ends(mut rows: rusqlite::Rows<'_>, shift: i64) -> Result<(Vec<End>, String), LedgerError> {
    let (mut ends, mut last) = (Vec::new(), String::new());
    while let Some(row) = rows.next()? {
        let net = row.get_ref("net")?.as_str().unwrap_or_default();
        if net != last {
            net.clone_into(&mut last);
        }
        let scope = row.get_ref("scope")?.as_str().ok().and_then(scope);
        let until = row.get::<_, Option<i64>>("until")?.map(|time| time_of(time, shift));
        ends.extend(net.parse().ok().zip(scope).map(|(net, scope)| (net, scope, until)));
    }
    Ok((ends, last))
}

fn read(mut rows: rusqlite::Rows<'_>, shift: i64) -> Result<Vec<Block>, LedgerError> {
    let mut blocks = Vec::new();
    while let Some(row) = rows.next()? {
        match block(row, shift) {
            Ok(block) => blocks.push(block),
            Err(LedgerError::Content(what)) => {
                limited::warn(limited::Kind::Row, || format!("a block in the ledger is left out: {what}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(blocks)
}

/// The end of the later block stays, with what is known of that one. A block that had ended when the new one began is of the past; and while
/// the clock is in doubt (?9), one that was made longer counts as made in this boot.
const PUT: &str = "
    INSERT INTO blocks (net, scope, origin, reason, evidence, by, since, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (net, scope) DO UPDATE SET origin = excluded.origin, reason = excluded.reason,
        evidence = excluded.evidence, by = excluded.by, until = excluded.until,
        since = CASE WHEN until <= excluded.since OR ?9 THEN excluded.since ELSE since END
    WHERE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until)";

const PUT_FOUND: &str = "
    INSERT INTO blocks (net, scope, origin, reason, evidence, by, since, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (net, scope) DO UPDATE SET until = excluded.until,
        since = CASE WHEN ?9 THEN excluded.since ELSE since END
    WHERE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until)";

/// `ahead`: milliseconds from the blocks' time of day to the ledger's.
pub(super) fn put<'a>(
    connection: &Connection,
    blocks: impl Iterator<Item = &'a Block>,
    ahead: i64,
    in_doubt: bool,
) -> Result<(), LedgerError> {
    insert(connection, PUT, blocks, ahead, in_doubt)
}

pub(super) fn put_found<'a>(
    connection: &Connection,
    blocks: impl Iterator<Item = &'a Block>,
    ahead: i64,
    in_doubt: bool,
) -> Result<(), LedgerError> {
    insert(connection, PUT_FOUND, blocks, ahead, in_doubt)
}

fn insert<'a>(
    connection: &Connection,
    statement: &str,
    blocks: impl Iterator<Item = &'a Block>,
    ahead: i64,
    in_doubt: bool,
) -> Result<(), LedgerError> {
    let mut insert = connection.prepare_cached(statement)?;
    for (net, block) in in_order(blocks.map(|block| (block.net, block))) {
        insert.execute(params![
            net,
            block.scope.name(),
            block.origin.name(),
            block.reason,
            block.evidence.as_ref().map(ToString::to_string),
            block.by,
            shifted(block.since, ahead).cast_signed(),
            block.until.map(|until| shifted(until, ahead).cast_signed()),
            in_doubt,
        ])?;
    }
    Ok(())
}

pub(super) fn remove(connection: &Connection, nets: &HashSet<IpNet>) -> Result<(), LedgerError> {
    let mut delete = connection.prepare_cached("DELETE FROM blocks WHERE net = ?1")?;
    for (net, ()) in in_order(nets.iter().map(|net| (*net, ()))) {
        delete.execute([net])?;
    }
    Ok(())
}

/// In the order of the table: a long list then goes through it once, and not to and fro.
fn in_order<T>(items: impl Iterator<Item = (IpNet, T)>) -> Vec<(String, T)> {
    let mut items: Vec<_> = items.map(|(net, item)| (net.to_string(), item)).collect();
    items.sort_by(|(one, _), (other, _)| one.cmp(other));
    items
}

pub(super) fn remove_ended(connection: &Connection, by: Option<u64>) -> Result<(), LedgerError> {
    let Some(time) = by else { return Ok(()) };
    connection.prepare_cached("DELETE FROM blocks WHERE until <= ?1")?.execute([time.cast_signed()])?;
    Ok(())
}

fn block(row: &Row<'_>, shift: i64) -> Result<Block, LedgerError> {
    let text = |name| row.get::<_, String>(name);
    let wrong = |what: &str, value: &str| LedgerError::Content(format!("{value:?} as {what}"));
    let (net, scope, origin) = (text("net")?, text("scope")?, text("origin")?);
    let evidence: Option<String> = row.get("evidence")?;
    let time = |time| time_of(time, shift);
    Ok(Block {
        net: net.parse().map_err(|_| wrong("a network", &net))?,
        scope: self::scope(&scope).ok_or_else(|| wrong("a scope", &scope))?,
        origin: [Origin::Manual, Origin::Auto]
            .into_iter()
            .find(|known| known.name() == origin)
            .ok_or_else(|| wrong("an origin", &origin))?,
        reason: row.get("reason")?,
        evidence: evidence.and_then(|evidence| serde_json::from_str(&evidence).ok()),
        by: text("by")?,
        since: time(row.get("since")?),
        until: row.get::<_, Option<i64>>("until")?.map(time),
    })
}

fn scope(name: &str) -> Option<Scope> {
    [Scope::Host, Scope::Services].into_iter().find(|known| known.name() == name)
}

fn time_of(time: i64, shift: i64) -> u64 {
    shifted(time.max(0).cast_unsigned(), shift)
}
