//! A new set of maps takes over from the one before it: blocks, limiter state and counters outlive a change of the layout or of the
//! sizes.
//!
//! While the new set is filled the old program goes on with the old maps. What it counts until its last packet is added at the end,
//! by [`Datapath::retire`]; what it takes from a limit in these milliseconds is forgotten, in favour of the source.

use std::ops::RangeInclusive;

use aya::maps::PerCpuArray;
use guard_common::Verdict;
use guard_common::abi::{self, Counter, End, Meter, ServiceName, SourceKey};
use guard_common::verdict::COUNTERS;

use super::maps::Maps;
use super::pins::MapSet;
use super::publish::suspended;
use super::{Datapath, Error, bpf};

/// Versions of the layout whose service names and counters are those of this build, and whose blocks it can read. From any other nothing is
/// taken over here; the agent knows the blocks from its ledger.
const SAME_LAYOUT: RangeInclusive<u32> = 1..=abi::VERSION;
/// Versions whose meters are. Those of others are forgotten, in favour of the sources.
const SAME_METERS: RangeInclusive<u32> = 4..=abi::VERSION;
/// From this version on, times are by the boot clock. Before, they were by one that stands still while the machine is suspended.
const BOOT_CLOCK: u32 = 6;

/// What a new set has taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The name of the set before.
    pub from: String,
    /// Why it could not be used any longer.
    pub why: String,
    pub blocks: usize,
    /// Sources whose limiter state went along.
    pub sources: usize,
}

/// Fills a new set from the one before.
pub(super) fn succeed(from: &MapSet, why: String, to: &mut Maps) -> Result<Succession, Error> {
    let mut succession = Succession { from: from.name(), why, blocks: 0, sources: 0 };
    if !SAME_LAYOUT.contains(&from.version()) {
        return Ok(succession);
    }
    let old = Maps::open_set(from)?;
    if let Some(mut blocks) = present(old.blocks_of_any_build())? {
        if from.version() < BOOT_CLOCK {
            let later = suspended();
            blocks.iter_mut().for_each(|(_, block)| *block = block.later(later));
        }
        to.write_blocks(&blocks)?;
        to.set_host_blocks(blocks.iter().filter(|(_, block)| block.host_until != End::NONE).count() as u64)?;
        succession.blocks = blocks.len();
    }
    if let Some(names) = present(old.array::<ServiceName>("SERVICE_NAMES"))? {
        for (index, name) in names.iter().enumerate() {
            // At most 256 services.
            to.array_mut::<ServiceName>("SERVICE_NAMES")?.set(index as u32, name?, 0)?;
        }
    }
    if SAME_METERS.contains(&from.version())
        && let Some(meters) = present(old.meters())?
    {
        to.write_meters(&meters)?;
        succession.sources = meters.len();
    }
    Ok(succession)
}

/// A table whose pin somebody has removed has nothing to give.
fn present<T>(table: Result<T, Error>) -> Result<Option<T>, Error> {
    match table {
        Err(Error::NoMap(_)) => Ok(None),
        table => table.map(Some),
    }
}

impl Maps {
    fn meters(&self) -> Result<Vec<(SourceKey, Meter)>, Error> {
        bpf::read_all(self.descriptor("METERS")?).map_err(|source| Error::Table { table: "METERS", source })
    }

    fn write_meters(&mut self, meters: &[(SourceKey, Meter)]) -> Result<(), Error> {
        let (sources, states): (Vec<_>, Vec<_>) = meters.iter().copied().unzip();
        bpf::update_all(self.descriptor("METERS")?, &sources, &states)
            .map_err(|error| self.not_written("METERS", error))
    }

    /// Adds what an older set has counted to what this one counts.
    fn carry_counters(&mut self, old: &Self) -> Result<(), Error> {
        let Some(counted) = present(old.get("COUNTERS"))? else { return Ok(()) };
        let counted = PerCpuArray::<_, Counter>::try_from(counted)?;
        // The sets of version 1 had nothing carried.
        let carried_before = old.array::<Counter>("CARRIED").ok();
        let mut carried = self.array_mut::<Counter>("CARRIED")?;
        for index in 0..COUNTERS {
            let mut sum = carried.get(&index, 0)?;
            let before = carried_before.as_ref().map(|before| before.get(&index, 0)).transpose()?;
            for counter in counted.get(&index, 0)?.iter().chain(&before) {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
            if sum != Counter::default() {
                carried.set(index, sum, 0)?;
            }
        }
        Ok(())
    }

    /// What the sets before this one have counted under a verdict.
    pub(super) fn carried(&self, verdict: Verdict) -> Result<Counter, Error> {
        Ok(self.array::<Counter>("CARRIED")?.get(&verdict.counter(), 0)?)
    }
}

impl Datapath {
    /// What the maps were filled from, if they are new ones beside older ones.
    pub const fn succession(&self) -> Option<&Succession> {
        self.succession.as_ref()
    }

    /// The policy is in the maps: from now on this set is the one in use, for the next start too.
    ///
    /// # Errors
    /// When the pins cannot be renamed.
    pub fn complete(&mut self) -> Result<(), Error> {
        if let (Some(pins), Some(set), false) = (&self.pins, &self.set, self.complete) {
            self.set = Some(pins.complete_set(set)?);
            self.complete = true;
        }
        Ok(())
    }

    /// No link runs a program over an older set any longer: takes over what they counted at last, and removes them. It can be called again
    /// after an error: nothing is counted twice.
    ///
    /// # Errors
    /// When the pins cannot be read or removed.
    pub fn retire(&mut self) -> Result<(), Error> {
        let (Some(pins), Some(set)) = (&self.pins, &self.set) else { return Ok(()) };
        for old in pins.complete_sets()?.iter().filter(|old| *old != set) {
            if SAME_LAYOUT.contains(&old.version()) && !self.carried.contains(&old.name()) {
                self.maps.carry_counters(&Maps::open_set(old)?)?;
                self.carried.insert(old.name());
            }
            pins.remove_set(old)?;
        }
        Ok(())
    }

    /// The start has failed: where this process has filled a set beside an older one, and no interface uses it, the older one is in use again.
    ///
    /// # Errors
    /// When the new set cannot be removed.
    pub fn abandon(&mut self) -> Result<(), Error> {
        let (Some(pins), Some(set), true, true) =
            (&self.pins, &self.set, self.succession.is_some(), self.links.is_empty())
        else {
            return Ok(());
        };
        pins.remove_set(set)
    }

    /// Whether packets may be judged by these maps already: the set was in use before this process took it over.
    pub fn is_in_use(&self) -> Result<bool, Error> {
        Ok(self.pins.is_some() && self.complete && self.maps.live()?.generation > 0)
    }
}
