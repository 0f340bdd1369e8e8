//! Making a new policy live.
//!
//! The policy is written into the slot that is not live. Its tries are new maps; putting them in place waits until no CPU
//! runs a packet that began before, so afterwards nobody reads the arrays of that slot and they can be written over. One
//! store of the epoch then makes the slot live: no packet sees half a policy.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{LpmTrie, Map, MapData};
use guard_common::abi::{
    self, Class, LimitsId, PORT_WORDS, PortWord, Rule, RuleKeyV4, RuleKeyV6, SERVICE_BITS, ServiceId,
    ServiceName, port_word,
};
use guard_common::epoch::{Epoch, Slot};
use guard_common::parse::Protocol;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

use super::{Error, Maps, bpf, trie};
use crate::plan::Plan;
use crate::sockets::Ports;

/// Destinations have a place in the tries of the rules; only that they are there says something.
const DESTINATION: Rule = Rule::new(Class::Allow, LimitsId::NONE);

const SERVICE_NAMES: &str = "SERVICE_NAMES";

/// A policy in one of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub slot: Slot,
    /// Counts the policies that were made live; 0 before the first.
    pub generation: u64,
    /// How long the old policy can still come back.
    pub unconfirmed_for: Option<Duration>,
}

/// A policy that lies in the slot that is not live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Prepared {
    slot: Slot,
    pub generation: u64,
}

impl Maps {
    /// Makes `plan` live and returns its generation.
    ///
    /// # Errors
    /// When a table cannot hold its part; the policy that was live stays so. When a policy waits for its confirmation: the slot that is
    /// not live holds the one to go back to.
    pub fn publish(&mut self, plan: &Plan) -> Result<u64, Error> {
        let prepared = self.prepare(plan)?;
        self.switch_to(prepared)?;
        Ok(prepared.generation)
    }

    /// Makes a prepared policy live, in one store.
    ///
    /// # Errors
    /// When the map cannot be written; the policy that was live stays so.
    pub fn switch_to(&mut self, prepared: Prepared) -> Result<(), Error> {
        self.store(Epoch::confirmed(prepared.slot))
    }

    /// Makes `plan` live for `time` and returns its generation. Unless [`confirm`](Self::confirm) comes in time the program goes back to the
    /// policy before by itself.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_for(&mut self, plan: &Plan, time: Duration) -> Result<u64, Error> {
        let Prepared { slot, generation } = self.prepare(plan)?;
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.store(Epoch::until(slot, boot_now().saturating_add(time)))?;
        Ok(generation)
    }

    /// Keeps the policy that waits for it. Returns false if none does, or its time is over.
    ///
    /// # Errors
    /// When the maps cannot be read or written.
    pub fn confirm(&mut self) -> Result<bool, Error> {
        let live = self.live()?;
        let waits = live.unconfirmed_for.is_some();
        if waits {
            self.store(Epoch::confirmed(live.slot))?;
        }
        Ok(waits)
    }

    fn store(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.change_state(|state| state.epoch = epoch.word())
    }

    /// Writes `plan` into the slot that is not live.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn prepare(&mut self, plan: &Plan) -> Result<Prepared, Error> {
        let live = self.live()?;
        if live.unconfirmed_for.is_some() {
            return Err(Error::AwaitsConfirmation);
        }
        let idle = live.slot.other();
        self.write_rules(plan, idle)?;
        self.write_arrays(plan, idle)?;
        self.write_names(plan)?;
        let generation = self.newest_generation()? + 1;
        let policy = abi::Policy::new(generation, plan.enforces, plan.thresholds);
        self.array_mut::<abi::Policy>("POLICIES")?.set(idle.index(), policy, 0)?;
        // What was remembered under the policy that was in this slot before.
        self.note_change()?;
        Ok(Prepared { slot: idle, generation })
    }

    /// The policy that judges packets now.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn live(&self) -> Result<Live, Error> {
        let epoch = Epoch::from_word(self.state()?.epoch);
        let now = boot_now();
        let slot = epoch.live(|| now);
        let policy = self.array::<abi::Policy>("POLICIES")?.get(&slot.index(), 0)?;
        let left = epoch.deadline().and_then(|deadline| deadline.checked_sub(now)).filter(|left| *left > 0);
        Ok(Live { slot, generation: policy.generation, unconfirmed_for: left.map(Duration::from_nanos) })
    }

    /// The services that counters are kept for, those of earlier policies included.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn service_names(&self) -> Result<BTreeMap<String, ServiceId>, Error> {
        let failed = |source| Error::Table { table: SERVICE_NAMES, source };
        // In one call: a scrape asks for them, and most of the places are empty.
        let names = bpf::read_all::<u32, ServiceName>(self.descriptor(SERVICE_NAMES)?).map_err(failed)?;
        let name = |(id, name): &(u32, ServiceName)| {
            let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
            Some((String::from_utf8(name.to_vec()).ok()?, ServiceId::new(u8::try_from(*id).ok()?)))
        };
        Ok(names.iter().filter_map(name).filter(|(_, id)| *id != ServiceId::NONE).collect())
    }

    /// The TCP ports that the live policy guards, at the destinations of their services.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn guarded_tcp_ports(&self) -> Result<Ports, Error> {
        let slot = self.live()?.slot;
        let words = self.array::<PortWord>("PORTS")?;
        let mut by_service: BTreeMap<u8, Vec<u16>> = BTreeMap::new();
        for first in (0..=u16::MAX).step_by(8) {
            let (index, _) = port_word(slot, Protocol::Tcp, first);
            let word = words.get(&index, 0)?;
            for (port, id) in (first..=first | 7).zip(word).filter(|(_, id)| *id != 0) {
                by_service.entry(id).or_default().push(port);
            }
        }
        let services = self.array::<abi::Service>("SERVICES")?;
        let mut named = None;
        let mut ports = Ports::default();
        for (id, numbers) in by_service {
            let service = services.get(&(slot.index() * ServiceId::COUNT + u32::from(id)), 0)?;
            let mut destinations = Vec::new();
            if service.has_destinations() {
                let named = match &mut named {
                    Some(named) => named,
                    none => none.insert(self.destinations(slot)?),
                };
                let of = named.iter().filter(|(service, _)| service.get() == id);
                destinations.extend(of.map(|(_, net)| *net));
            }
            ports.add(numbers, &destinations);
        }
        Ok(ports)
    }

    /// The prefixes that services are reached at.
    fn destinations(&self, slot: Slot) -> Result<Vec<(ServiceId, IpNet)>, Error> {
        let mut found = Vec::new();
        let mut add = |service, address: IpAddr, bits: u32| {
            let length = u8::try_from(bits.saturating_sub(SERVICE_BITS)).ok();
            let net = length.and_then(|length| IpNet::new(address, length).ok());
            found.extend(net.map(|net| (service, net)));
        };
        let slots = ArrayOfMaps::<_, LpmTrie<MapData, RuleKeyV4, Rule>>::try_from(self.get("RULES_V4")?)?;
        for key in slots.get(&slot.index(), 0)?.keys() {
            let key = key?;
            if let Some((service, address)) = key.data().destination() {
                add(service, address.into(), key.prefix_len());
            }
        }
        let slots = ArrayOfMaps::<_, LpmTrie<MapData, RuleKeyV6, Rule>>::try_from(self.get("RULES_V6")?)?;
        for key in slots.get(&slot.index(), 0)?.keys() {
            let key = key?;
            if let Some((service, address)) = key.data().destination() {
                add(service, address.into(), key.prefix_len());
            }
        }
        Ok(found)
    }

    /// The lowest guarded port of each service of the live policy.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn first_ports(&self) -> Result<BTreeMap<ServiceId, (Protocol, u16)>, Error> {
        let slot = self.live()?.slot;
        let words = self.array::<PortWord>("PORTS")?;
        let mut first = BTreeMap::new();
        for (protocol, start) in Protocol::ALL
            .into_iter()
            .flat_map(|protocol| (0..=u16::MAX).step_by(8).map(move |start| (protocol, start)))
        {
            let (index, _) = port_word(slot, protocol, start);
            for (place, id) in words.get(&index, 0)?.into_iter().enumerate().filter(|(_, id)| *id != 0) {
                // The words begin at multiples of 8: the sum is a port.
                first.entry(ServiceId::new(id)).or_insert((protocol, start + place as u16));
            }
        }
        Ok(first)
    }

    fn newest_generation(&self) -> Result<u64, Error> {
        let policies = self.array::<abi::Policy>("POLICIES")?;
        let generation = |slot: Slot| policies.get(&slot.index(), 0).map(|policy| policy.generation);
        Ok(generation(Slot::A)?.max(generation(Slot::B)?))
    }

    fn write_rules(&mut self, plan: &Plan, slot: Slot) -> Result<(), Error> {
        let bits = |length: u8| SERVICE_BITS + u32::from(length);
        let v4 = plan.rules_v4.iter().map(|planned| {
            let key = RuleKeyV4::new(planned.service, planned.net.addr().octets());
            (Key::new(bits(planned.net.prefix_len()), key), planned.rule)
        });
        let v6 = plan.rules_v6.iter().map(|planned| {
            let key = RuleKeyV6::new(planned.service, planned.net.addr().octets());
            (Key::new(bits(planned.net.prefix_len()), key), planned.rule)
        });
        let (mut destinations_v4, mut destinations_v6) = (Vec::new(), Vec::new());
        for (service, net) in &plan.destinations {
            let length = bits(net.prefix_len());
            match net.addr() {
                IpAddr::V4(address) => {
                    let key = RuleKeyV4::of_destination(*service, address.octets());
                    destinations_v4.push((Key::new(length, key), DESTINATION));
                }
                IpAddr::V6(address) => {
                    let key = RuleKeyV6::of_destination(*service, address.octets());
                    destinations_v6.push((Key::new(length, key), DESTINATION));
                }
            }
        }
        self.write_trie("RULES_V4", slot, v4.chain(destinations_v4).unzip())?;
        self.write_trie("RULES_V6", slot, v6.chain(destinations_v6).unzip())
    }

    /// Fills a new trie and puts it into the slot.
    fn write_trie<K: aya::Pod + Hash>(
        &mut self,
        table: &'static str,
        slot: Slot,
        (keys, rules): (Vec<Key<K>>, Vec<Rule>),
    ) -> Result<(), Error> {
        let trie = trie::create::<K>(table, u32::try_from(keys.len()).unwrap_or(u32::MAX).max(1))?;
        bpf::update_all(trie.fd().as_fd(), &keys, &rules).map_err(|error| self.not_written(table, error))?;
        let trie: LpmTrie<MapData, K, Rule> = Map::LpmTrie(trie).try_into()?;
        let mut slots = ArrayOfMaps::<_, LpmTrie<MapData, K, Rule>>::try_from(self.get_mut(table)?)?;
        Ok(slots.set(slot.index(), &trie, 0)?)
    }

    fn write_arrays(&mut self, plan: &Plan, slot: Slot) -> Result<(), Error> {
        let first = |entries: u32| slot.index() * entries;
        self.write_array("PORTS", first(PORT_WORDS / 2), &plan.ports)?;
        let mut services = vec![abi::Service::default(); ServiceId::COUNT as usize];
        for service in &plan.services {
            services[usize::from(service.id.get())] = service.entry;
        }
        self.write_array("SERVICES", first(ServiceId::COUNT), &services)?;
        self.write_array("LIMITS", first(LimitsId::COUNT), &plan.limits)
    }

    /// Names the services; a number that changes its owner begins to count anew.
    fn write_names(&mut self, plan: &Plan) -> Result<(), Error> {
        for service in &plan.services {
            let mut name: ServiceName = [0; 64];
            let bytes = service.name.as_bytes();
            let length = bytes.len().min(name.len() - 1);
            name[..length].copy_from_slice(&bytes[..length]);
            let index = u32::from(service.id.get());
            let before = self.array::<ServiceName>(SERVICE_NAMES)?.get(&index, 0)?;
            if before == name {
                continue;
            }
            if before[0] != 0 {
                self.reset_counters(service.id)?;
            }
            self.array_mut::<ServiceName>(SERVICE_NAMES)?.set(index, name, 0)?;
        }
        Ok(())
    }

    fn write_array<V: aya::Pod>(&self, table: &'static str, first: u32, values: &[V]) -> Result<(), Error> {
        let keys: Vec<u32> = (first..).take(values.len()).collect();
        bpf::update_all(self.descriptor(table)?, &keys, values)
            .map_err(|error| self.not_written(table, error))
    }
}

/// The clock of the program: nanoseconds of CLOCK_BOOTTIME, which goes on while the machine is suspended.
pub fn boot_now() -> u64 {
    nanoseconds_of(ClockId::CLOCK_BOOTTIME)
}

/// The clock of the limiter: nanoseconds of CLOCK_MONOTONIC.
pub(super) fn limiter_now() -> u64 {
    nanoseconds_of(ClockId::CLOCK_MONOTONIC)
}

/// How long the machine was suspended since its boot: what the clock of sets of maps before version 6 is behind.
pub(super) fn suspended() -> u64 {
    let monotonic = limiter_now();
    boot_now().saturating_sub(monotonic)
}

fn nanoseconds_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).map(Duration::from);
    // Both clocks exist on every Linux that guard runs on.
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
