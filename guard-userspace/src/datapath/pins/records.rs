//! What the pins know of their links, beside their names: the network namespace that the numbers of their interfaces are of, and which
//! entries of the policy asked for an interface.
//!
//! A BPF file system holds no text, so each fact is an empty directory, whose name says it. Like the links it ends with the boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{Pins, create, entries, remove};
use crate::datapath::Error;

const NAMESPACE: &str = "netns";
const ASKED: &str = "asked";

impl Pins {
    /// The network namespace of the links; none of pins that an older build made.
    pub(in crate::datapath) fn namespace(&self) -> Result<Option<u64>, Error> {
        let of = |name: &str| name.strip_prefix(NAMESPACE)?.strip_prefix('-')?.parse().ok();
        Ok(self.records()?.iter().find_map(|(name, _)| of(name)))
    }

    pub(in crate::datapath) fn set_namespace(&self, namespace: u64) -> Result<(), Error> {
        for (name, path) in self.records()? {
            if name.starts_with(NAMESPACE) {
                remove(&path, |path| fs::remove_dir(path))?;
            }
        }
        create(self.root.join(format!("{NAMESPACE}-{namespace}")))
    }

    /// Whether `entry` of a policy is known to have asked for the interface; none where nothing is known of it.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn asked_for(&self, index: u32, entry: &str) -> Result<Option<bool>, Error> {
        let known: BTreeSet<String> = self.records()?.into_iter().map(|(name, _)| name).collect();
        let prefix = format!("{ASKED}-{index}-");
        let is_known = known.iter().any(|name| name.starts_with(&prefix));
        Ok(is_known.then(|| known.contains(&asked(index, entry))))
    }

    /// Notes which entries of the policy ask for an interface, and forgets what was noted of it.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn note_asked<'e>(&self, index: u32, by: impl IntoIterator<Item = &'e str>) -> Result<(), Error> {
        let wanted: BTreeSet<String> = by.into_iter().map(|entry| asked(index, entry)).collect();
        for name in &wanted {
            create(self.root.join(name))?;
        }
        self.forget(index, |name| wanted.contains(name))
    }

    /// The interface has another number now.
    pub(in crate::datapath) fn renumber_asked(&self, from: u32, to: u32) -> Result<(), Error> {
        let prefix = format!("{ASKED}-{from}-");
        for (name, _) in self.records()? {
            if let Some(hash) = name.strip_prefix(&prefix) {
                create(self.root.join(format!("{ASKED}-{to}-{hash}")))?;
            }
        }
        self.forget_asked(from)
    }

    /// Removes what is noted of an interface that guard has left.
    pub(in crate::datapath) fn forget_asked(&self, index: u32) -> Result<(), Error> {
        self.forget(index, |_| false)
    }

    fn forget(&self, index: u32, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        let prefix = format!("{ASKED}-{index}-");
        for (name, path) in self.records()? {
            if name.starts_with(&prefix) && !keep(&name) {
                remove(&path, |path| fs::remove_dir(path))?;
            }
        }
        Ok(())
    }

    fn records(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path));
        Ok(entries(&self.root)?.into_iter().filter_map(named).collect())
    }
}

fn asked(index: u32, entry: &str) -> String {
    format!("{ASKED}-{index}-{:016x}", hash(entry.as_bytes()))
}

/// FNV-1a: the same in every build, unlike the standard library's.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_know_their_namespace_and_who_asked_for_an_interface() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        assert_eq!(pins.namespace().unwrap(), None);
        pins.set_namespace(7).unwrap();
        pins.set_namespace(9).unwrap();
        assert_eq!(pins.namespace().unwrap(), Some(9));

        assert_eq!(pins.asked_for(3, "eth0").unwrap(), None);
        pins.note_asked(3, ["eth0", "default-route"]).unwrap();
        pins.note_asked(33, ["eth*"]).unwrap();
        assert_eq!(pins.asked_for(3, "eth0").unwrap(), Some(true));
        assert_eq!(pins.asked_for(3, "eth*").unwrap(), Some(false));
        pins.note_asked(3, ["default-route"]).unwrap();
        assert_eq!(pins.asked_for(3, "eth0").unwrap(), Some(false));
        assert_eq!(pins.asked_for(3, "default-route").unwrap(), Some(true));
        pins.renumber_asked(3, 4).unwrap();
        assert_eq!(pins.asked_for(4, "default-route").unwrap(), Some(true));
        pins.renumber_asked(4, 3).unwrap();
        pins.forget_asked(3).unwrap();
        assert_eq!(pins.asked_for(3, "default-route").unwrap(), None);
        assert_eq!(pins.asked_for(33, "eth*").unwrap(), Some(true));
        assert_eq!(pins.current_set().unwrap(), None, "no set of maps is taken for one of these");
    }
}
