//! What commands do by themselves where no agent runs.

use anyhow::{Context, Result};

use super::Global;
use crate::blocks::Register;
use crate::datapath::{Alone, Error, Maps};

/// The guard in the kernel, which nobody else changes meanwhile.
pub(super) struct Agentless {
    pub(super) maps: Maps,
    _alone: Alone,
}

impl Agentless {
    pub(super) fn open(global: &Global) -> Result<Self> {
        let pins = global.pins();
        let alone = pins.alone();
        if let Err(error @ Error::PinsInUse(_)) = alone {
            return Err(error).with_context(|| {
                format!(
                    "no agent answers at {}, and one may run with another control socket: name it with --socket or GUARD_SOCKET",
                    global.socket.display()
                )
            });
        }
        // Where there are no pins there is nothing to hold, and this says so.
        let maps = Maps::open(&pins)?;
        Ok(Self { maps, _alone: alone? })
    }

    /// The blocks, in the kernel and in the ledger.
    pub(super) fn register(&mut self, global: &Global) -> Result<Register> {
        Ok(Register::open(global.state.clone(), &mut self.maps)?)
    }
}
