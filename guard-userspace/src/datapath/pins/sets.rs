//! Sets of maps.
//!
//! One complete set is in use. When the maps must be made anew, since this build lays them out differently or the policy wants
//! them of another size, a new set is filled beside it and becomes complete by a rename. So a start that is cut short at any
//! moment leaves a complete set behind, and the next start knows which.

use std::fs;
use std::path::{Path, PathBuf};

use guard_common::abi;

use super::{Pins, create, entries, remove};
use crate::datapath::Error;

/// A directory of pinned maps: `abi-VERSION-NUMBER`, or `new-VERSION-NUMBER` before it is complete. BPF file systems take no dots in
/// names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapSet {
    /// Counts the sets of this guard; the highest is the newest.
    number: u32,
    /// Of the layout of the maps, see [`abi::VERSION`].
    version: u32,
    path: PathBuf,
}

const COMPLETE: &str = "abi";
const UNFINISHED: &str = "new";

impl MapSet {
    fn new(root: &Path, state: &str, version: u32, number: u32) -> Self {
        Self { number, version, path: root.join(format!("{state}-{version}-{number}")) }
    }

    fn parse(path: PathBuf) -> Option<(bool, Self)> {
        let mut words = path.file_name()?.to_str()?.split('-');
        let complete = match words.next()? {
            COMPLETE => true,
            UNFINISHED => false,
            _ => return None,
        };
        let version = words.next()?.parse().ok()?;
        // The first builds had one set, without a number.
        let number = words.next().map_or(Some(0), |number| number.parse().ok())?;
        Some((complete, Self { number, version, path }))
    }

    pub(in crate::datapath) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The name of its directory.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Pins {
    /// The newest complete set: the one that the program uses.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn current_set(&self) -> Result<Option<MapSet>, Error> {
        Ok(self.complete_sets()?.pop())
    }

    /// All complete sets, the newest last.
    pub(in crate::datapath) fn complete_sets(&self) -> Result<Vec<MapSet>, Error> {
        let mut sets: Vec<_> =
            self.sets()?.into_iter().filter_map(|(complete, set)| complete.then_some(set)).collect();
        sets.sort();
        Ok(sets)
    }

    fn sets(&self) -> Result<Vec<(bool, MapSet)>, Error> {
        Ok(entries(&self.root)?.into_iter().filter_map(MapSet::parse).collect())
    }

    /// Begins a set beside the complete ones. What an earlier start left unfinished is removed.
    pub(in crate::datapath) fn begin_set(&self) -> Result<MapSet, Error> {
        let mut number = 0;
        for (complete, set) in self.sets()? {
            number = number.max(set.number);
            if !complete {
                self.remove_set(&set)?;
            }
        }
        let set = MapSet::new(&self.root, UNFINISHED, abi::VERSION, number + 1);
        create(set.path.clone())?;
        Ok(set)
    }

    /// The set has all that it needs: from now on it is the one in use.
    pub(in crate::datapath) fn complete_set(&self, set: &MapSet) -> Result<MapSet, Error> {
        let complete = MapSet::new(&self.root, COMPLETE, set.version, set.number);
        fs::rename(&set.path, &complete.path).map_err(|source| Error::File {
            action: "cannot rename",
            path: set.path.clone(),
            source,
        })?;
        Ok(complete)
    }

    /// Makes the directories of a set again.
    pub(in crate::datapath) fn prepare_set(&self, set: &MapSet) -> Result<(), Error> {
        self.prepare()?;
        create(set.path.clone())
    }

    /// Removes the pins of a set; a program that uses its maps keeps them.
    pub(in crate::datapath) fn remove_set(&self, set: &MapSet) -> Result<(), Error> {
        for file in entries(&set.path)? {
            remove(&file, |path| fs::remove_file(path))?;
        }
        remove(&set.path, |path| fs::remove_dir(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_known_by_their_names() {
        let cases = [
            ("abi-2-7", Some((true, 2, 7))),
            ("new-2-8", Some((false, 2, 8))),
            ("abi-1", Some((true, 1, 0))),
            ("links", None),
            ("abi-x-1", None),
            ("abi-2-y", None),
        ];
        for (name, expected) in cases {
            let parsed = MapSet::parse(Path::new("/pins").join(name));
            let found = parsed.as_ref().map(|(complete, set)| (*complete, set.version, set.number));
            assert_eq!(found, expected, "{name}");
            if let (Some((_, set)), true) = (parsed, name != "abi-1") {
                assert_eq!(set.name(), name);
            }
        }
    }

    #[test]
    fn the_newest_complete_set_is_current_and_unfinished_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        for name in ["abi-1", "abi-9-3", "abi-2-10", "new-2-11", "links"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        assert_eq!(pins.current_set().unwrap().unwrap().name(), "abi-2-10");
        let begun = pins.begin_set().unwrap();
        assert_eq!(begun.name(), format!("new-{}-12", abi::VERSION));
        assert!(!root.path().join("new-2-11").exists());
        let complete = pins.complete_set(&begun).unwrap();
        assert_eq!(pins.current_set().unwrap().unwrap(), complete);
        assert_eq!(complete.name(), format!("abi-{}-12", abi::VERSION));
    }
}
