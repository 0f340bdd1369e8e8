//! The maps, whether they come with a program that was just loaded or from the pins of one that runs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapInfo};
use guard_common::abi;

use super::pins::{MapSet, Pins, is_there};
use super::{Capacities, Error, fill};

/// Every map that is kept over restarts.
pub(super) const NAMES: [&str; 35] = [
    "STATE",
    "POLICIES",
    "PORTS",
    "SERVICES",
    "SERVICE_NAMES",
    "LIMITS",
    "RULES_V4",
    "RULES_V6",
    "ADMITTED",
    "BLOCKS",
    "BLOCK_PREFIXES",
    "METERS",
    "CONNECTIONS",
    "SOCKETS",
    "HOME",
    "FLOWS",
    "OPENINGS",
    "FRAGMENTS_LET_IN",
    "FRAGMENTS",
    "STRAYS",
    "STRAYS_OF",
    "EVIDENCE",
    "SAMPLED",
    "SAMPLES",
    "OFFENCES",
    "SURPLUS",
    "WATCH",
    "TRAFFIC_UNTIL",
    "TRAFFIC",
    "CAPTURES",
    "ALLOWANCES",
    "BUDGETS",
    "LOST",
    "COUNTERS",
    "CARRIED",
];

/// The maps of a guard in the kernel. What it says and does needs no agent.
pub struct Maps {
    by_name: BTreeMap<&'static str, Map>,
}

impl Maps {
    /// The maps of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let take = |name| Ok((name, ebpf.take_map(name).ok_or(Error::NoMap(name))?));
        Ok(Self { by_name: NAMES.into_iter().map(take).collect::<Result<_, Error>>()? })
    }

    /// The pinned maps of a guard that was started before.
    ///
    /// # Errors
    /// When nothing is pinned there, when it is of another version, or cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        pins.check_owner()?;
        let set = pins.current_set()?.ok_or_else(|| Error::NotRunning { path: pins.root().into() })?;
        if set.version() != abi::VERSION {
            return Err(Error::OtherVersion { path: pins.root().into(), found: set.version() });
        }
        let maps = Self::open_set(&set)?;
        match NAMES.iter().find(|name| !maps.by_name.contains_key(**name)) {
            Some(missing) => Err(Error::MissingPin(set.map(missing))),
            None => Ok(maps),
        }
    }

    /// Those of our maps that a set has.
    pub(super) fn open_set(set: &MapSet) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for name in NAMES {
            let path = set.map(name);
            if is_there(&path)? {
                by_name.insert(name, Map::from_map_data(MapData::from_pin(path)?)?);
            }
        }
        Ok(Self { by_name })
    }

    pub(super) fn get(&self, name: &'static str) -> Result<&Map, Error> {
        self.by_name.get(name).ok_or(Error::NoMap(name))
    }

    pub(super) fn get_mut(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.by_name.get_mut(name).ok_or(Error::NoMap(name))
    }

    pub(super) fn array<V: aya::Pod>(&self, name: &'static str) -> Result<Array<&MapData, V>, Error> {
        Ok(Array::try_from(self.get(name)?)?)
    }

    pub(super) fn state(&self) -> Result<abi::State, Error> {
        Ok(self.array("STATE")?.get(&0, 0)?)
    }

    /// Callers are the only ones that change it: the agent under its lock, or a command that is alone.
    pub(super) fn change_state(&mut self, change: impl FnOnce(&mut abi::State)) -> Result<(), Error> {
        let mut state = self.state()?;
        change(&mut state);
        Ok(self.array_mut("STATE")?.set(0, state, 0)?)
    }

    /// Rules or blocks have changed: what the CPUs remember of sources is no longer true.
    pub(super) fn note_change(&mut self) -> Result<(), Error> {
        self.change_state(|state| state.changes = state.changes.wrapping_add(1))
    }

    pub(super) fn array_mut<V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<Array<&mut MapData, V>, Error> {
        Ok(Array::try_from(self.get_mut(name)?)?)
    }

    /// For how many entries a table was made.
    pub(super) fn capacity(&self, name: &'static str) -> Result<u32, Error> {
        Ok(self.info(name)?.max_entries())
    }

    /// The sizes with which the maps were made.
    ///
    /// # Errors
    /// When a map does not tell.
    pub fn capacities(&self) -> Result<Capacities, Error> {
        let [blocks, sources, connections] = ["BLOCKS", "METERS", "SOCKETS"].map(|name| self.capacity(name));
        Ok(Capacities { blocks: blocks?, sources: sources?, connections: connections? })
    }

    pub(super) fn info(&self, name: &'static str) -> Result<MapInfo, Error> {
        Ok(self.data(name)?.info()?)
    }

    /// The error of a table that did not take an entry.
    pub(super) fn not_written(&self, table: &'static str, source: io::Error) -> Error {
        match (source.raw_os_error(), fill::capacity_key(table)) {
            // What a hash says, and what a trie says.
            (Some(libc::E2BIG | libc::ENOSPC), Some(key)) => {
                Error::TableFull { table, capacity: self.capacity(table).unwrap_or(0), key }
            }
            (Some(libc::ENOMEM), _) => Error::NoMemory { table },
            _ => Error::Table { table, source },
        }
    }

    /// The descriptor of a map, which aya's typed maps do not show.
    pub(super) fn descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        Ok(self.data(name)?.fd().as_fd())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "aya's kinds of maps are open-ended")]
    fn data(&self, name: &'static str) -> Result<&MapData, Error> {
        match self.get(name)? {
            Map::Array(data)
            | Map::ArrayOfMaps(data)
            | Map::HashMap(data)
            | Map::LpmTrie(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data) => Ok(data),
            _ => Err(Error::NoMap(name)),
        }
    }
}
