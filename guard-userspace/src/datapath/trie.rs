//! New tries for the slots of the policy.
//!
//! A map that is put into an array of maps must be like the one that the array was made with. Before Linux 6.3 that includes what the
//! kernel made of the types of its values (BTF), as it was told them for the program's maps. So these tries have types, too:
//! structures of the sizes of key and value, which is all that the kernel looks at.

use std::os::fd::AsFd;
use std::sync::LazyLock;

use aya::maps::MapData;
use aya::maps::lpm_trie::Key;
use aya_obj::Map;
use guard_common::abi::Rule;

use super::load::parse_object;
use super::{Error, bpf};

/// The tries that the arrays `RULES_V4` and `RULES_V6` were made with.
static TEMPLATES: LazyLock<[Option<Map>; 2]> = LazyLock::new(|| {
    let object = parse_object().ok();
    ["RULES_V4", "RULES_V6"].map(|table| object.as_ref()?.maps.get(table)?.inner())
});

/// An empty trie for the rules of `table`.
pub(super) fn create<K: aya::Pod>(table: &'static str, entries: u32) -> Result<MapData, Error> {
    let size = size_of::<Key<K>>() as u32;
    let mut template =
        TEMPLATES.iter().flatten().find(|map| map.key_size() == size).cloned().ok_or(Error::NoMap(table))?;
    template.set_max_entries(entries);
    let failed = |source| Error::Table { table, source };
    let types = bpf::load_types(&types(size)).map_err(failed)?;
    if let Map::Btf(map) = &mut template {
        (map.def.btf_key_type_id, map.def.btf_value_type_id) = (KEY, VALUE);
    }
    Ok(MapData::create(template, "guard_rules", Some(types.as_fd()))?)
}

/// Types are numbered in their order, from 1.
const VALUE: u32 = 1;
const KEY: u32 = 2;

/// The types in the kernel's format (Documentation/bpf/btf.rst): a header, the types, and their names.
fn types(key_size: u32) -> Vec<u8> {
    const STRUCTURE: u32 = 4 << 24;
    const NAMES: &[u8] = b"\0rule\0key\0";
    // Name, kind, size.
    let types = [1, STRUCTURE, size_of::<Rule>() as u32, 6, STRUCTURE, key_size];
    let length = size_of_val(&types) as u32;
    // Magic number and version; its own length; where types and names are, and how long.
    let header = [0x0001_eb9f, 24, 0, length, length, NAMES.len() as u32];
    let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
    words.chain(NAMES.iter().copied()).collect()
}
