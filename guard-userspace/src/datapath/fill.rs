//! How full the tables are, at a cost that does not grow with what is in them.
//!
//! | table | how its entries are counted |
//! | --- | --- |
//! | hashes | one batch of [`SAMPLE`] look-ups. Where that is the whole table, exactly; else from how many buckets it came: the kernel spreads keys evenly, so the error is about 1.6 % (one standard deviation) |
//! | blocked prefixes | by the memory that the kernel has taken for them, exactly; before Linux 6.4, which does not tell, one by one up to [`SAMPLE`] |
//! | rules | each trie is made to measure: by its size, exactly |

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use aya::maps::lpm_trie::Key;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{LpmTrie, MapData};
use guard_common::abi::{Block, Rule, RuleKeyV4, RuleKeyV6};

use super::bpf::Look;
use super::{Error, Maps, bpf};

/// So many entries are looked at, at most: about 1 ms.
const SAMPLE: usize = 4096;

/// How full one table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The name of the table in metrics.
    pub table: &'static str,
    pub entries: u64,
    /// None for a table that is made to measure.
    pub capacity: Option<u64>,
}

/// A table with room for a configured number of entries.
struct Sized {
    map: &'static str,
    /// Its name in metrics.
    name: &'static str,
    /// The key of `[capacity]` that sets its size.
    key: &'static str,
}

const BLOCKS: Sized = Sized { map: "BLOCKS", name: "blocks", key: "blocks" };
const BLOCK_PREFIXES: Sized = Sized { map: "BLOCK_PREFIXES", name: "block_prefixes", key: "blocks" };
const SOURCES: Sized = Sized { map: "METERS", name: "sources", key: "sources" };
const CONNECTIONS: Sized = Sized { map: "SOCKETS", name: "connections", key: "connections" };
const CLIENTS: Sized = Sized { map: "CONNECTIONS", name: CLIENTS_TABLE, key: "connections" };

/// The table of sources that have connections, as metrics name it.
pub const CLIENTS_TABLE: &str = "clients";

/// The key of `[capacity]` that sets the size of a map.
pub(super) fn capacity_key(map: &str) -> Option<&'static str> {
    let all = [BLOCKS, BLOCK_PREFIXES, SOURCES, CONNECTIONS, CLIENTS];
    all.into_iter().find(|sized| sized.map == map).map(|sized| sized.key)
}

impl Maps {
    /// How full each table is. That of the rules is left out for a process that may not open it (without `CAP_SYS_ADMIN`).
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn fill(&self) -> Result<Vec<Fill>, Error> {
        let mut fill = Vec::new();
        for Sized { map, name, .. } in [BLOCKS, SOURCES, CONNECTIONS, CLIENTS] {
            let capacity = self.capacity(map)?;
            let entries = self.estimate(map, capacity)?;
            fill.push(Fill { table: name, entries, capacity: Some(u64::from(capacity)) });
        }
        let capacity = Some(u64::from(self.capacity(BLOCK_PREFIXES.map)?));
        fill.push(Fill { table: BLOCK_PREFIXES.name, entries: self.count_block_prefixes()?, capacity });
        let slot = self.live()?.slot;
        let rules = [
            ("rules_v4", self.rules::<RuleKeyV4>("RULES_V4", slot.index())),
            ("rules_v6", self.rules::<RuleKeyV6>("RULES_V6", slot.index())),
        ];
        for (table, entries) in rules {
            fill.extend(entries.map(|entries| Fill { table, entries, capacity: None }));
        }
        Ok(fill)
    }

    /// Bytes that the kernel accounts for each map. For tries that is, from Linux 6.4 on, what their entries take, without the nodes
    /// between them.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let memory = |name| {
            let bytes = memlock(self.descriptor(name)?);
            Ok((name, bytes.map_err(|source| Error::Table { table: name, source })?))
        };
        super::maps::NAMES.into_iter().map(memory).collect()
    }

    fn estimate(&self, map: &'static str, capacity: u32) -> Result<u64, Error> {
        let info = self.info(map)?;
        let look = bpf::look(self.descriptor(map)?, info.key_size(), info.value_size(), SAMPLE)
            .map_err(|source| Error::Table { table: map, source })?;
        // A hash has as many buckets as the next power of two, and is read bucket by bucket.
        Ok(extrapolate(look, u64::from(capacity).next_power_of_two()).min(u64::from(capacity)))
    }

    fn count_block_prefixes(&self) -> Result<u64, Error> {
        let prefixes = self.descriptor(BLOCK_PREFIXES.map)?;
        if let Some(each) = memory_of_a_prefix() {
            let taken = memlock(prefixes);
            let taken = taken.map_err(|source| Error::Table { table: BLOCK_PREFIXES.map, source })?;
            return Ok(taken / each);
        }
        let prefixes = LpmTrie::<_, [u8; 16], Block>::try_from(self.get(BLOCK_PREFIXES.map)?)?;
        Ok(prefixes.keys().take(SAMPLE).count() as u64)
    }

    fn rules<K: aya::Pod>(&self, table: &'static str, slot: u32) -> Option<u64> {
        let slots = ArrayOfMaps::<_, MapData>::try_from(self.get(table).ok()?).ok()?;
        let trie = slots.get(&slot, 0).ok()?;
        let size = trie.info().ok()?.max_entries();
        // A policy without a rule of this kind has a trie with room for one.
        let trie = LpmTrie::<MapData, K, Rule>::try_from(aya::maps::Map::LpmTrie(trie)).ok()?;
        Some(if trie.keys().next().is_none() { 0 } else { u64::from(size) })
    }
}

/// From what was found in the first buckets to all.
fn extrapolate(Look { entries, cursor }: Look, buckets: u64) -> u64 {
    match cursor {
        None => u64::from(entries),
        Some(seen) => u64::from(entries) * buckets / u64::from(seen).max(1),
    }
}

/// Bytes that the kernel accounts for each entry of the trie of blocked prefixes; none where it does not go by entries.
fn memory_of_a_prefix() -> Option<u64> {
    static EACH: OnceLock<Option<u64>> = OnceLock::new();
    let measure = || {
        let shape = aya_obj::Map::new_from_params(
            aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_LPM_TRIE as u32,
            size_of::<Key<[u8; 16]>>() as u32,
            size_of::<Block>() as u32,
            1,
            aya_obj::generated::BPF_F_NO_PREALLOC,
        );
        let trie = MapData::create(shape, "guard_measure", None).ok()?;
        let trie = trie.fd().as_fd();
        let empty = memlock(trie).ok()?;
        bpf::update(trie, &Key::new(0, [0; 16]), &Block::default()).ok()?;
        memlock(trie).ok()?.checked_sub(empty).filter(|each| *each > 0 && empty == 0)
    };
    *EACH.get_or_init(measure)
}

/// What the kernel says that a map takes.
fn memlock(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("the kernel does not say how much memory it takes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_buckets_stands_for_all() {
        let cases = [
            ("all of an empty table", (0, None), 0),
            ("all of a small one", (4095, None), 4095),
            ("a full one", (4096, Some(4096)), 1 << 20),
            ("half full", (4096, Some(8192)), 1 << 19),
            ("no bucket fits", (0, Some(0)), 0),
        ];
        for (name, (entries, cursor), expected) in cases {
            assert_eq!(extrapolate(Look { entries, cursor }, 1 << 20), expected, "{name}");
        }
    }
}
