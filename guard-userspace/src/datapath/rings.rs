//! What the program tells the agent.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use guard_common::abi::{Captured, Lost, Offence, Sample, Surplus};

use super::pins::{MapSet, Pins};
use super::{Error, Maps, bpf};

/// A ring that the kernel writes and one agent reads. Readable when there is something in it.
pub struct Ring<T> {
    ring: RingBuf<MapData>,
    content: PhantomData<T>,
}

/// Dropped packets, sampled, sources over a threshold, connections too many, and frames for who watches.
pub struct Rings {
    pub samples: Ring<Sample>,
    pub offences: Ring<Offence>,
    pub surplus: Ring<Surplus>,
    pub captures: Ring<Captured>,
}

impl Rings {
    /// The rings of the guard that runs.
    ///
    /// # Errors
    /// When they are not pinned or cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let set = pins.current_set()?.ok_or_else(|| Error::NotRunning { path: pins.root().into() })?;
        Ok(Self {
            samples: Ring::open(&set, "SAMPLES")?,
            offences: Ring::open(&set, "OFFENCES")?,
            surplus: Ring::open(&set, "SURPLUS")?,
            captures: Ring::open(&set, "CAPTURES")?,
        })
    }
}

impl<T: aya::Pod> Ring<T> {
    fn open(set: &MapSet, name: &str) -> Result<Self, Error> {
        let map = Map::from_map_data(MapData::from_pin(set.map(name))?)?;
        Ok(Self { ring: RingBuf::try_from(map)?, content: PhantomData })
    }
}

impl<T: aya::Pod> Iterator for Ring<T> {
    type Item = T;

    /// What is not read yet. What is shorter than it should be is of another build, and skipped.
    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(content) = bpf::from_bytes(&self.ring.next()?) {
                return Some(content);
            }
        }
    }
}

impl<T> AsRawFd for Ring<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Maps {
    /// How often something could not be noted or told.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost(&self, what: Lost) -> Result<u64, Error> {
        let lost = PerCpuArray::<_, u64>::try_from(self.get("LOST")?)?;
        Ok(lost.get(&(what as u32), 0)?.iter().sum())
    }
}
