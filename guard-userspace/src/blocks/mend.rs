//! Holding the kernel's tables against the ledger while an agent runs, and bringing back what another program has changed in them.
//!
//! The rule is that of a start: of two ends the longer one holds. What is gone or was shortened comes back; what is new or was made
//! longer is taken over into the ledger, where it can be seen and ended.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::register::ends;
use super::{Clock, Register, RegisterError, notes};
use crate::datapath::{Maps, boot_now};
use crate::ledger::Change;

/// Very many blocks are compared as a whole this often.
const BETWEEN_COMPARISONS: Duration = Duration::from_secs(45);
/// ... and so many of them at each look.
const SAMPLE: usize = 256;

/// How the tables were looked after.
#[derive(Debug, Default)]
pub(super) struct Care {
    /// When all was compared last.
    compared: Option<Instant>,
    /// Up to where the ledger was gone through.
    sampled: String,
    /// What the last reconciliation has changed.
    pub(super) mended: Vec<IpNet>,
    drift: u64,
}

impl Register {
    /// Compares the kernel's tables with what they were told: few blocks as a whole, very many by a sample, and as a whole within a
    /// minute. Mends what differs, and notes it in the audit log. Returns how many entries that were.
    ///
    /// # Errors
    /// When the ledger or the kernel's tables cannot be read or written.
    pub fn mend(&mut self, maps: &mut Maps) -> Result<usize, RegisterError> {
        // Without the ledger nothing is known to compare with.
        if !self.record.is_reconciled {
            return Ok(0);
        }
        let clock = Clock::now();
        let mut mended = Vec::new();
        if !self.holds(maps, &clock)? {
            let reconciled = self.reconcile(maps, &clock)?;
            mended = std::mem::take(&mut self.care.mended);
            reconciled?;
        }
        let host = usize::from(self.told.mend_host(maps)?);
        let count = mended.len() + host;
        if count > 0 {
            self.care.drift += count as u64;
            let events = vec![notes::mended(mended)];
            self.record.write(Change { events, ..Change::new(clock) })?;
        }
        Ok(count)
    }

    /// Entries that another program had changed, since this was opened.
    pub const fn drift(&self) -> u64 {
        self.care.drift
    }

    fn holds(&mut self, maps: &Maps, clock: &Clock) -> Result<bool, RegisterError> {
        let is_due = self.care.compared.is_none_or(|compared| compared.elapsed() >= BETWEEN_COMPARISONS);
        if is_due || self.told.are_few() {
            self.care.compared = Some(Instant::now());
            return Ok(self.told.holds(maps)?);
        }
        let (sample, next) = self.record.some_ends(clock, &self.care.sampled, SAMPLE)?;
        self.care.sampled = next;
        let at = boot_now();
        let live = sample
            .into_iter()
            .filter(|(.., until)| until.is_none_or(|until| clock.to_kernel(until).is_after(|| at)));
        Ok(self.told.missing(maps, &ends(live, clock))?.is_empty())
    }
}
