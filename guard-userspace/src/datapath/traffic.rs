//! What sources send, which the program counts only for as long as it is told to.

use std::time::Duration;

use guard_common::abi::{SourceKey, Traffic};

use super::{Error, Maps, boot_now, bpf};

const UNTIL: &str = "TRAFFIC_UNTIL";
const TRAFFIC: &str = "TRAFFIC";

impl Maps {
    /// Has it counted what each source sends, for so long from now. To count on, say so again before that.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn count_traffic(&self, time: Duration) -> Result<(), Error> {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until = boot_now().saturating_add(time);
        bpf::update(self.descriptor(UNTIL)?, &0_u32, &until)
            .map_err(|source| Error::Table { table: UNTIL, source })
    }

    /// Whether it is counted, or was until the last packet came.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_traffic_counted(&self) -> Result<bool, Error> {
        Ok(self.array::<u64>(UNTIL)?.get(&0, 0)? != 0)
    }

    /// What each source has sent since its entry was made, while it was counted. An entry may be made anew: then its counts begin with 0
    /// again.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn traffic(&self) -> Result<Vec<(SourceKey, Traffic)>, Error> {
        let failed = |source| Error::Table { table: TRAFFIC, source };
        bpf::read_all(self.descriptor(TRAFFIC)?).map_err(failed)
    }
}
