//! Sources that were blocked automatically, and how often.

use std::collections::HashMap;

use ipnet::IpNet;
use rusqlite::{Connection, params};

use super::{Ledger, LedgerError};
use crate::autoblock::Offender;
use crate::blocks::Clock;

impl Ledger {
    /// All sources that are remembered. What cannot be read is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn offenders(&self, clock: &Clock) -> Result<HashMap<IpNet, Offender>, LedgerError> {
        let offset = clock.offset.saturating_add(super::clock::ahead(&self.connection, clock)?);
        let mut select = self.connection.prepare_cached("SELECT net, strikes, until FROM offenders")?;
        let rows = select.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?, row.get::<_, i64>(2)?))
        })?;
        let mut offenders = HashMap::new();
        for row in rows {
            let (net, strikes, until) = row?;
            if let Ok(net) = net.parse() {
                offenders.insert(net, Offender { strikes, until: until.saturating_sub(offset) });
            }
        }
        Ok(offenders)
    }
}

/// `offset`: from the kernel's clock to the ledger's time of day, in milliseconds.
pub(super) fn put(
    connection: &Connection,
    offenders: &HashMap<IpNet, Option<Offender>>,
    offset: i64,
) -> Result<(), LedgerError> {
    let mut insert = connection
        .prepare_cached("INSERT OR REPLACE INTO offenders (net, strikes, until) VALUES (?1, ?2, ?3)")?;
    let mut delete = connection.prepare_cached("DELETE FROM offenders WHERE net = ?1")?;
    for (net, offender) in offenders {
        match offender {
            Some(Offender { strikes, until }) => {
                insert.execute(params![net.to_string(), strikes, until.saturating_add(offset)])?
            }
            None => delete.execute([net.to_string()])?,
        };
    }
    Ok(())
}
