//! The blocks in the ledger.

use ipnet::IpNet;
use rusqlite::{Row, params};

use super::{Ledger, LedgerError};
use crate::blocks::{Block, Origin, Scope};

impl Ledger {
    /// Writes blocks, all of them or none. Of two of the same network and scope the one that ends later stays.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn put_blocks(&mut self, blocks: &[Block]) -> Result<(), LedgerError> {
        let transaction = self.connection.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO blocks (net, scope, origin, reason, evidence, by, since, until)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (net, scope) DO UPDATE SET origin = excluded.origin, reason = excluded.reason,
                 evidence = excluded.evidence, by = excluded.by, until = excluded.until
             WHERE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until)",
        )?;
        for block in blocks {
            insert.execute(params![
                block.net.to_string(),
                block.scope.name(),
                block.origin.name(),
                block.reason,
                block.evidence.as_ref().map(ToString::to_string),
                block.by,
                block.since.cast_signed(),
                block.until.map(u64::cast_signed),
            ])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }

    /// Removes all blocks of these networks. Returns how many there were.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn remove_blocks(&mut self, nets: &[IpNet]) -> Result<usize, LedgerError> {
        let transaction = self.connection.transaction()?;
        let mut delete = transaction.prepare_cached("DELETE FROM blocks WHERE net = ?1")?;
        let mut removed = 0;
        for net in nets {
            removed += delete.execute([net.to_string()])?;
        }
        drop(delete);
        transaction.commit()?;
        Ok(removed)
    }

    /// All blocks, those that have ended included until they are removed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn blocks(&self) -> Result<Vec<Block>, LedgerError> {
        let mut select = self.connection.prepare_cached("SELECT * FROM blocks ORDER BY since, net")?;
        let blocks = select.query_and_then([], block)?;
        blocks.collect()
    }

    /// The blocks of one network.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn blocks_of(&self, net: &IpNet) -> Result<Vec<Block>, LedgerError> {
        let mut select = self.connection.prepare_cached("SELECT * FROM blocks WHERE net = ?1")?;
        let blocks = select.query_and_then([net.to_string()], block)?;
        blocks.collect()
    }

    /// Removes the blocks that have ended by `now`, and returns them.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn take_ended(&mut self, now: u64) -> Result<Vec<Block>, LedgerError> {
        let transaction = self.connection.transaction()?;
        let mut delete = transaction.prepare_cached("DELETE FROM blocks WHERE until <= ?1 RETURNING *")?;
        let ended = delete.query_and_then([now.cast_signed()], block)?.collect::<Result<Vec<_>, _>>()?;
        drop(delete);
        transaction.commit()?;
        Ok(ended)
    }
}

fn block(row: &Row<'_>) -> Result<Block, LedgerError> {
    let text = |name| row.get::<_, String>(name);
    let wrong = |what: &str, value: &str| LedgerError::Content(format!("{value:?} as {what}"));
    let (net, scope, origin) = (text("net")?, text("scope")?, text("origin")?);
    let evidence: Option<String> = row.get("evidence")?;
    Ok(Block {
        net: net.parse().map_err(|_| wrong("a network", &net))?,
        scope: [Scope::Host, Scope::Services]
            .into_iter()
            .find(|known| known.name() == scope)
            .ok_or_else(|| wrong("a scope", &scope))?,
        origin: [Origin::Manual, Origin::Auto]
            .into_iter()
            .find(|known| known.name() == origin)
            .ok_or_else(|| wrong("an origin", &origin))?,
        reason: row.get("reason")?,
        evidence: evidence.and_then(|evidence| serde_json::from_str(&evidence).ok()),
        by: text("by")?,
        since: row.get::<_, i64>("since")?.cast_unsigned(),
        until: row.get::<_, Option<i64>>("until")?.map(i64::cast_unsigned),
    })
}
