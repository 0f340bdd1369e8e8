//! Pins and links that somebody else has removed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use super::maps::NAMES;
use super::{Datapath, Error, Mode, bpf};

/// A pinned link, held open too: the program stays on the interface when the pin is removed.
pub(super) struct HeldLink {
    pub(super) mode: Mode,
    link: OwnedFd,
}

impl Datapath {
    /// Holds the link that is pinned for an interface.
    pub(super) fn hold(&mut self, index: u32, mode: Mode) -> Result<(), Error> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let path = pins.link(index, mode);
        let link = bpf::open_pin(&path).map_err(|source| Error::File {
            action: "cannot open the link",
            path,
            source,
        })?;
        self.links.insert(index, HeldLink { mode, link });
        Ok(())
    }

    /// Whether an interface still has the program of this agent behind its link.
    pub fn is_attached(&self, index: u32) -> bool {
        let info = self.links.get(&index).map(|held| bpf::xdp_link_info(held.link.as_fd()));
        matches!(info, Some(Ok(info)) if info.interface == index && self.program_ids().contains(&info.program))
    }

    /// Takes the program off all interfaces but these, and removes the links of those that are gone. Returns the indices of both.
    ///
    /// # Errors
    /// When a link cannot be cut or its pin cannot be removed.
    pub fn detach_others(&mut self, guarded: &BTreeSet<u32>) -> Result<Vec<u32>, Error> {
        self.links.retain(|index, _| guarded.contains(index));
        match &self.pins {
            Some(pins) => pins.remove_links(|index| !guarded.contains(&index)),
            None => Ok(Vec::new()),
        }
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
            if path.exists() {
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
