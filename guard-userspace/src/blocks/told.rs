//! What the kernel was told: its tables are the truth for packets, and every change to them is made here.

use std::collections::{BTreeMap, HashMap, HashSet};

use guard_common::abi::{self, End};
use ipnet::IpNet;

use super::drift::Digest;
use super::left_out::LeftOut;
use super::nested::{Ends, Nested};
use crate::datapath::{Error, Maps, boot_now};
use crate::limited;

/// Addresses are looked up in the kernel; only prefixes, which depend on each other, are held in memory.
#[derive(Debug, Default)]
pub(super) struct Told {
    nested: Nested,
    /// The blocked addresses, and how many of them have the scope `host`.
    addresses: Digest,
    host_addresses: usize,
    /// What the tables have no room for.
    left_out: LeftOut,
}

/// What was found in the kernel at the beginning.
#[derive(Debug, Default)]
pub(super) struct Begun {
    pub(super) told: Told,
    /// What lasts longer there than was wanted.
    pub(super) found: Vec<(IpNet, Ends)>,
    /// What was not as wanted, that included, and is now.
    pub(super) mended: Vec<IpNet>,
}

/// Reading the whole table costs about as much as so many look-ups for each of its entries.
const LOOK_UPS_AN_ENTRY: usize = 8;
/// ... and more than this, since the table has room for a million and all of it is walked through.
const MANY: usize = 4096;

pub(super) type Entries = HashMap<IpNet, abi::Block>;

/// An entry to be written; none: to be removed.
type Changes = Vec<(IpNet, Option<Ends>)>;

impl Told {
    /// Begins with what is in the kernel, and with all of these blocks beside it. Of the `settled` networks what the kernel has does not count.
    pub(super) fn begin(
        maps: &mut Maps,
        mut wanted: HashMap<IpNet, Ends>,
        settled: &HashSet<IpNet>,
    ) -> Result<Begun, Error> {
        let at = boot_now();
        let present: Entries = maps.blocks()?.into_iter().collect();
        let mut told = Self::default();
        let prefixes = |wanted: &HashMap<IpNet, Ends>| -> BTreeMap<IpNet, Ends> {
            wanted.iter().filter(|(net, _)| !is_address(net)).map(owned).collect()
        };
        told.nested.set(&prefixes(&wanted));
        let mut found: Vec<(IpNet, Ends)> = Vec::new();
        for (net, entry) in present.iter().filter(|(_, entry)| is_live(entry, at)) {
            let said = if is_address(net) {
                wanted.get(net).copied().unwrap_or_default()
            } else {
                told.nested.merged(net)
            };
            if of_entry(entry).is_longer_than(said, at) && !settled.contains(net) {
                found.push((*net, of_entry(entry)));
            }
        }
        for (net, ends) in &found {
            let known = wanted.entry(*net).or_default();
            *known = known.max(*ends);
        }
        told.left_out = LeftOut::of(&mut wanted, &present, maps.capacities()?.blocks);
        // What was left out above says nothing of those within it.
        told.nested = Nested::default();
        let prefixes = told.nested.set(&prefixes(&wanted));
        let addresses = || wanted.iter().filter(|(net, _)| is_address(net));
        told.host_addresses = addresses().filter(|(_, ends)| ends.host != End::NONE).count();
        // Most are there already, and as they should be.
        let differs = |net: &IpNet, ends: Ends| {
            present.get(net).is_none_or(|entry| of_entry(entry).is_other_than(ends))
        };
        for (net, ends) in addresses() {
            let in_kernel = present.get(net).filter(|_| !differs(net, *ends));
            told.addresses.add(net, in_kernel.map_or(*ends, of_entry));
        }
        let all = addresses().map(|(net, ends)| (*net, Some(*ends))).chain(prefixes);
        let mut changes: Changes =
            all.filter(|(net, ends)| ends.is_none_or(|ends| differs(net, ends))).collect();
        changes.extend(present.keys().filter(|net| !wanted.contains_key(*net)).map(|net| (*net, None)));
        write(maps, &changes, &present)?;
        told.tell_host(maps)?;
        let mended = changes.iter().map(|(net, _)| *net).chain(found.iter().map(|(net, _)| *net)).collect();
        Ok(Begun { told, found, mended })
    }

    /// Blocks, all or nothing; what is blocked already stays so for the longer of the two times. Returns how many were not.
    pub(super) fn block(&mut self, maps: &mut Maps, wanted: &HashMap<IpNet, Ends>) -> Result<usize, Error> {
        let at = boot_now();
        let present = self.present(maps, wanted.keys())?;
        let mut added = 0;
        let (mut addresses, mut prefixes) = (Changes::new(), BTreeMap::new());
        for (net, ends) in wanted {
            let known = self.known(net, &present);
            added += usize::from(!known.services.is_after(|| at));
            if is_address(net) {
                addresses.push((*net, Some(ends.max(known))));
            } else {
                prefixes.insert(*net, ends.max(known));
            }
        }
        self.change(maps, addresses, &prefixes, &present)?;
        self.left_out.forget(wanted.keys());
        Ok(added)
    }

    /// Ends blocks, all or nothing. Returns which were blocked until now.
    pub(super) fn end<'a>(
        &mut self,
        maps: &mut Maps,
        nets: impl IntoIterator<Item = &'a IpNet>,
    ) -> Result<HashSet<IpNet>, Error> {
        let at = boot_now();
        let nets: HashSet<IpNet> = nets.into_iter().copied().collect();
        let present = self.present(maps, nets.iter())?;
        let is_blocked =
            |net: &&IpNet| self.known(net, &present).services.is_after(|| at) || self.left_out.contains(net);
        let live = nets.iter().filter(is_blocked).copied().collect();
        self.remove(maps, nets.clone(), &present)?;
        self.left_out.forget(&nets);
        Ok(live)
    }

    /// Takes those of these networks out of the kernel whose blocks have ended. Returns which.
    pub(super) fn sweep<'a>(
        &mut self,
        maps: &mut Maps,
        nets: impl IntoIterator<Item = &'a IpNet>,
    ) -> Result<HashSet<IpNet>, Error> {
        let at = boot_now();
        let nets: HashSet<IpNet> = nets.into_iter().copied().collect();
        let present = self.present(maps, nets.iter())?;
        let is_past = |net: &IpNet| !self.known(net, &present).services.is_after(|| at);
        let past: HashSet<IpNet> = nets.into_iter().filter(is_past).collect();
        self.remove(maps, past.clone(), &present)?;
        self.left_out.forget(&past);
        Ok(past)
    }

    /// Until when a network is blocked by itself or by prefixes around it.
    pub(super) fn ends(&self, maps: &Maps, net: &IpNet) -> Result<Ends, Error> {
        let own = if is_address(net) { maps.block(net)?.as_ref().map(of_entry) } else { None };
        Ok(self.nested.merged(net).max(own.unwrap_or_default()))
    }

    /// The longest blocked prefix around a network, itself not counted.
    pub(super) fn around(&self, net: &IpNet) -> Option<IpNet> {
        self.nested.around(net)
    }

    /// Blocked addresses and prefixes.
    pub(super) fn len(&self) -> usize {
        self.addresses.entries() + self.nested.len()
    }

    fn remove(&mut self, maps: &mut Maps, nets: HashSet<IpNet>, present: &Entries) -> Result<(), Error> {
        let (addresses, prefixes): (HashSet<_>, HashSet<_>) = nets.into_iter().partition(is_address);
        let there = addresses.into_iter().filter(|net| present.contains_key(net));
        let addresses = there.map(|net| (net, None)).collect();
        let prefixes = prefixes.into_iter().map(|net| (net, Ends::default())).collect();
        self.change(maps, addresses, &prefixes, present)
    }

    /// Changes addresses and prefixes, all or nothing.
    fn change(
        &mut self,
        maps: &mut Maps,
        addresses: Changes,
        prefixes: &BTreeMap<IpNet, Ends>,
        present: &Entries,
    ) -> Result<(), Error> {
        let before = prefixes.keys().map(|net| (*net, self.nested.get(net))).collect();
        let (mut all, mut host) = (self.addresses, self.host_addresses);
        for (net, ends) in &addresses {
            let known = present.get(net);
            if let Some(known) = known {
                all.remove(net, of_entry(known));
            }
            if let Some(ends) = ends {
                all.add(net, *ends);
            }
            host = (host + usize::from(ends.is_some_and(|ends| ends.host != End::NONE)))
                .saturating_sub(usize::from(known.is_some_and(|known| known.host_until != End::NONE)));
        }
        let mut changes = addresses;
        changes.extend(self.nested.set(prefixes));
        if let Err(error) = write(maps, &changes, present) {
            self.nested.set(&before);
            return Err(error);
        }
        (self.addresses, self.host_addresses) = (all, host);
        self.tell_host(maps)
    }

    /// What is said of a network itself.
    fn known(&self, net: &IpNet, present: &Entries) -> Ends {
        if is_address(net) {
            present.get(net).map(of_entry).unwrap_or_default()
        } else {
            self.nested.get(net)
        }
    }

    /// Those of the addresses that have an entry; if there is any other network, all prefixes too, since one changes others.
    fn present<'a>(
        &self,
        maps: &Maps,
        nets: impl Iterator<Item = &'a IpNet> + Clone,
    ) -> Result<Entries, Error> {
        let addresses = nets.clone().filter(|net| is_address(net));
        let mut present = Entries::new();
        if addresses.clone().count() > MANY.max(self.addresses.entries() / LOOK_UPS_AN_ENTRY) {
            let wanted: HashSet<&IpNet> = addresses.collect();
            present.extend(maps.block_addresses()?.into_iter().filter(|(net, _)| wanted.contains(net)));
        } else {
            for net in addresses {
                present.extend(maps.block(net)?.map(|entry| (*net, entry)));
            }
        }
        if nets.into_iter().any(|net| !is_address(net)) {
            present.extend(maps.block_prefixes()?);
        }
        Ok(present)
    }

    /// Tells the kernel whether any block concerns the whole host: while none does, other ports are not looked up.
    fn tell_host(&self, maps: &mut Maps) -> Result<(), Error> {
        maps.set_host_blocks(self.host_blocks())
    }

    fn host_blocks(&self) -> u64 {
        let prefixes = self.nested.iter().filter(|(_, ends)| ends.host != End::NONE).count();
        (self.host_addresses + prefixes) as u64
    }

    /// What the tables have no room for.
    pub(super) const fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Whether there is room by now for something that was left out.
    pub(super) fn has_room_for_more(&self) -> bool {
        self.left_out.fits(self.addresses.entries(), self.nested.len())
    }

    /// Whether few enough are blocked to compare all of them often.
    pub(super) fn are_few(&self) -> bool {
        self.len() <= MANY
    }

    /// Tells the kernel again whether any block concerns the whole host. Returns whether it thought otherwise.
    pub(super) fn mend_host(&self, maps: &mut Maps) -> Result<bool, Error> {
        let differs = maps.host_blocks()? != self.host_blocks();
        if differs {
            self.tell_host(maps)?;
        }
        Ok(differs)
    }

    /// Whether the kernel has all that it was told, and nothing else.
    pub(super) fn holds(&self, maps: &Maps) -> Result<bool, Error> {
        let mut addresses = Digest::default();
        maps.each_block_address(|net, entry| addresses.add(net, of_entry(entry)))?;
        if addresses != self.addresses {
            return Ok(false);
        }
        let wanted: BTreeMap<IpNet, Ends> = self.nested.all().into_iter().collect();
        let present = maps.block_prefixes()?;
        let is_wanted = |(net, entry): &(IpNet, abi::Block)| {
            wanted.get(net).is_some_and(|ends| !of_entry(entry).is_other_than(*ends))
        };
        Ok(present.len() == wanted.len() && present.iter().all(is_wanted))
    }

    /// Which of these networks the kernel does not have until then, or longer.
    pub(super) fn missing(&self, maps: &Maps, wanted: &HashMap<IpNet, Ends>) -> Result<Vec<IpNet>, Error> {
        let at = boot_now();
        let mut missing = Vec::new();
        let told = |net: &IpNet| is_address(net) && !self.left_out.contains(net);
        for (net, ends) in wanted.iter().filter(|(net, _)| told(net)) {
            let present = maps.block(net)?.as_ref().map(of_entry).unwrap_or_default();
            if ends.is_longer_than(present, at) {
                missing.push(*net);
            }
        }
        Ok(missing)
    }
}

/// Writes and removes entries; `present` holds those that were there of them. If the kernel refuses one, all are as they were.
fn write(maps: &mut Maps, changes: &Changes, present: &Entries) -> Result<(), Error> {
    let mut entries = Vec::new();
    let mut gone = Vec::new();
    for (net, ends) in changes {
        match ends {
            Some(ends) => {
                entries.push((*net, entry(*ends, present.get(net).map_or(0, |known| known.dropped))))
            }
            None => gone.push(*net),
        }
    }
    // What goes makes room.
    let written = maps.remove_blocks(&gone).and_then(|()| maps.write_blocks(&entries));
    if written.is_err() {
        put_back(maps, changes.iter().map(|(net, _)| net), present);
    }
    written
}

/// As it was before a write that the kernel broke off.
fn put_back<'a>(maps: &mut Maps, nets: impl Iterator<Item = &'a IpNet>, present: &Entries) {
    let (known, unknown): (Vec<_>, Vec<_>) = nets.partition(|net| present.contains_key(*net));
    let unknown: Vec<IpNet> = unknown.into_iter().copied().collect();
    let known: Vec<_> =
        known.into_iter().filter_map(|net| present.get(net).map(|entry| (*net, *entry))).collect();
    if let Err(error) = maps.remove_blocks(&unknown).and_then(|()| maps.write_blocks(&known)) {
        limited::warn(limited::Kind::NotPutBack, || {
            format!("the blocks in the kernel are not all as they were: {error}")
        });
    }
}

fn owned((net, ends): (&IpNet, &Ends)) -> (IpNet, Ends) {
    (*net, *ends)
}

pub(super) fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn is_live(entry: &abi::Block, at: u64) -> bool {
    entry.services_until.is_after(|| at)
}

const fn entry(ends: Ends, dropped: u64) -> abi::Block {
    abi::Block { host_until: ends.host, services_until: ends.services, dropped }
}

const fn of_entry(entry: &abi::Block) -> Ends {
    Ends { host: entry.host_until, services: entry.services_until }
}
