//! The count of open connections that `max_connections` is held against.

use guard_common::abi::SourceKey;

use super::{Error, Maps, bpf};

const TABLE: &str = "CONNECTIONS";

impl Maps {
    /// Says how many connections sources have open, over what was said of them before.
    ///
    /// # Errors
    /// When the table is full; what was written before that stays.
    pub fn write_connections(&mut self, open: &[(SourceKey, u64)]) -> Result<(), Error> {
        let (sources, counts): (Vec<_>, Vec<_>) = open.iter().copied().unzip();
        bpf::update_all(self.descriptor(TABLE)?, &sources, &counts)
            .map_err(|error| self.not_written(TABLE, error))
    }
}
