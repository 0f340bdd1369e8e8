//! Pins and links that somebody else has removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::maps::NAMES;
use super::pins::{Pins, is_there};
use super::{Datapath, Error, Mode, bpf};
use crate::network;

/// A pinned link, held open too: the program stays on the interface when the pin is removed.
pub(super) struct HeldLink {
    pub(super) mode: Mode,
    link: OwnedFd,
}

impl Datapath {
    /// Holds the link of an interface.
    pub(super) fn hold(&mut self, index: u32, mode: Mode, link: OwnedFd) {
        self.links.insert(index, HeldLink { mode, link });
    }

    /// Whether an interface still has the program of this agent: both its link and the device say so.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_attached(&self, index: u32) -> Result<bool, Error> {
        let Some(held) = self.links.get(&index) else { return Ok(false) };
        let info = bpf::xdp_link_info(held.link.as_fd()).map_err(|source| Error::File {
            action: "cannot read the link",
            path: self.pins.as_ref().map(|pins| pins.link(index, held.mode)).unwrap_or_default(),
            source,
        })?;
        Ok(info.interface == index && self.carries(index)?)
    }

    /// The interfaces with a pinned link. What is pinned is first made to fit: the pin of a link whose device is gone goes too, and a device that
    /// has left this namespace and come back may have another number.
    ///
    /// # Errors
    /// When the pins cannot be read or changed.
    pub fn pinned_interfaces(&mut self) -> Result<BTreeSet<u32>, Error> {
        let Some(pins) = self.pins.clone() else { return Ok(BTreeSet::new()) };
        let mut found = BTreeSet::new();
        for (index, mode, path) in pins.pinned_links()? {
            let told = bpf::open_pin(&path).and_then(|link| bpf::xdp_link_info(link.as_fd()));
            let info = told.map_err(|source| Error::File {
                action: "cannot read the link",
                path: path.clone(),
                source,
            })?;
            if info.interface == 0 {
                self.let_go(&BTreeSet::from([index]))?;
                continue;
            }
            let device = network::link(info.interface)?;
            if device.is_none_or(|device| device.xdp_program != Some(info.program)) {
                // It is in another namespace for now.
                continue;
            }
            if info.interface != index {
                self.renumber(&pins, (index, info.interface), mode, &path)?;
            }
            found.insert(info.interface);
        }
        Ok(found)
    }

    fn renumber(
        &mut self,
        pins: &Pins,
        (from, to): (u32, u32),
        mode: Mode,
        path: &Path,
    ) -> Result<(), Error> {
        let new = pins.link(to, mode);
        fs::rename(path, new).map_err(|source| Error::File {
            action: "cannot rename",
            path: path.into(),
            source,
        })?;
        pins.renumber_asked(from, to)?;
        if let Some(held) = self.links.remove(&from) {
            self.links.insert(to, held);
        }
        Ok(())
    }

    /// Takes the program off these interfaces, and removes their links. Returns the indices of those that had one.
    ///
    /// # Errors
    /// When a link cannot be cut or its pin cannot be removed.
    pub fn let_go(&mut self, interfaces: &BTreeSet<u32>) -> Result<Vec<u32>, Error> {
        self.links.retain(|index, _| !interfaces.contains(index));
        let Some(pins) = &self.pins else { return Ok(Vec::new()) };
        let gone = pins.remove_links(|index| interfaces.contains(&index))?;
        interfaces.iter().try_for_each(|index| pins.forget_asked(*index))?;
        Ok(gone)
    }

    /// Whether an entry of a policy is known to have asked for an interface; none where that is not known.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn asked_for(&self, index: u32, entry: &str) -> Result<Option<bool>, Error> {
        self.pins.as_ref().map_or(Ok(None), |pins| pins.asked_for(index, entry))
    }

    /// Notes which entries of the policy ask for an interface, for the next start.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn note_asked<'e>(&self, index: u32, by: impl IntoIterator<Item = &'e str>) -> Result<(), Error> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.note_asked(index, by))
    }

    /// Pins again what is not pinned any longer, so that the next start finds it. Returns how many pins were missing.
    ///
    /// # Errors
    /// When something cannot be pinned.
    pub fn repair_pins(&self) -> Result<usize, Error> {
        let (Some(pins), Some(set)) = (&self.pins, &self.set) else { return Ok(0) };
        let maps = NAMES.iter().map(|name| Ok((set.map(name), self.maps.descriptor(name)?)));
        let mut pinned = maps.collect::<Result<Vec<_>, Error>>()?;
        let links = self.links.iter();
        pinned.extend(links.map(|(index, held)| (pins.link(*index, held.mode), held.link.as_fd())));
        pinned.extend(self.trackers.iter().map(|(program, link)| (pins.tracker(program), link.as_fd())));
        let mut repaired = 0;
        for (path, descriptor) in pinned {
            if is_there(&path)? {
                continue;
            }
            pins.prepare_set(set)?;
            pins.prepare_tracker()?;
            bpf::pin(descriptor, &path).map_err(|source| Error::File {
                action: "cannot pin",
                path,
                source,
            })?;
            repaired += 1;
        }
        Ok(repaired)
    }
}
