//! The tables of the running program, read one value at a time: what would happen to a packet now.
//!
//! Nothing is changed: a packet that is only thought of takes nothing from a limit.

use std::borrow::Borrow;

use aya::maps::lpm_trie::Key;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};
use guard_common::abi::{
    Block, Limits, LimitsId, Meter, OpenCount, Policy, PortWord, Rule, RuleKeyV4, RuleKeyV6, SERVICE_BITS,
    Service, ServiceId, SourceKey, Standing, State, port_word,
};
use guard_common::epoch::Slot;
use guard_common::gcra::Word;
use guard_common::parse::{Headers, Protocol};
use guard_common::tables::{BlockState, MeterState};
use guard_common::{Address, Family, Tables};

use super::publish::limiter_now;
use super::{Error, Maps};

/// The tables of a decision, over the maps of the kernel. A value that cannot be read counts as absent.
pub struct Live<'a>(pub &'a Maps);

impl Maps {
    /// Whether this process may open the tries of the rules: the kernel lets only `CAP_SYS_ADMIN` take a map out of an array of maps.
    ///
    /// # Errors
    /// When it may not; a look-up would then find no rule where there is one.
    pub fn check_rules_can_be_read(&self) -> Result<(), Error> {
        let slots = ArrayOfMaps::<_, MapData>::try_from(self.get("RULES_V4")?)?;
        match slots.get(&self.live()?.slot.index(), 0) {
            Ok(_) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EPERM) => {
                Err(Error::RulesUnreadable)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Live<'_> {
    fn entry<V: aya::Pod>(&self, table: &'static str, index: u32) -> Option<V> {
        self.0.array::<V>(table).ok()?.get(&index, 0).ok()
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&self, table: &'static str) -> Result<HashMap<&MapData, K, V>, Error> {
        Ok(HashMap::try_from(self.0.get(table)?)?)
    }

    fn rules<K: aya::Pod>(&self, table: &'static str, slot: Slot, key: &Key<K>) -> Option<Rule> {
        let slots = ArrayOfMaps::<_, LpmTrie<MapData, K, Rule>>::try_from(self.0.get(table).ok()?).ok()?;
        slots.get(&slot.index(), 0).ok()?.get(key, 0).ok()
    }
}

impl Tables for Live<'_> {
    type Word = Imagined;

    fn state(&self) -> State {
        self.0.state().unwrap_or_default()
    }

    fn limiter_now(&self) -> Option<u64> {
        Some(limiter_now())
    }

    fn enforces(&self, slot: Slot) -> bool {
        self.entry::<Policy>("POLICIES", slot.index()).is_some_and(|policy| policy.enforces())
    }

    fn service_at(&self, slot: Slot, protocol: Protocol, port: u16) -> Option<ServiceId> {
        let (index, place) = port_word(slot, protocol, port);
        match self.entry::<PortWord>("PORTS", index)?[place] {
            0 => None,
            id => Some(ServiceId::new(id)),
        }
    }

    fn service(&self, slot: Slot, id: ServiceId) -> Option<Service> {
        self.entry("SERVICES", slot.index() * ServiceId::COUNT + u32::from(id.get()))
    }

    /// A question names a service and no address of it: it is about a packet to one of the destinations, whichever that is.
    fn is_destination(&self, _: Slot, _: ServiceId, _: Address) -> bool {
        true
    }

    fn rule(&self, slot: Slot, id: ServiceId, source: Address) -> Option<Rule> {
        match source.family() {
            Family::V4(bytes) => {
                self.rules("RULES_V4", slot, &Key::new(SERVICE_BITS + 32, RuleKeyV4::new(id, bytes)))
            }
            Family::V6(bytes) => {
                self.rules("RULES_V6", slot, &Key::new(SERVICE_BITS + 128, RuleKeyV6::new(id, bytes)))
            }
        }
    }

    /// What the CPUs remember is what they have found there.
    fn recall(&self, _: Address, _: Slot, _: ServiceId, _: u64) -> Standing {
        Standing::UNKNOWN
    }

    fn remember(&self, _: Address, _: Slot, _: ServiceId, _: Standing, _: u64) {}

    fn block(&self, source: Address) -> Option<BlockState<Imagined>> {
        let block: Block = self.hash("BLOCKS").ok()?.get(&source.to_bytes(), 0).ok()?;
        Some(BlockState::new(&block, Imagined(block.dropped)))
    }

    fn block_around(&self, source: Address) -> Option<BlockState<Imagined>> {
        let blocks = LpmTrie::<_, [u8; 16], Block>::try_from(self.0.get("BLOCK_PREFIXES").ok()?).ok()?;
        let block = blocks.get(&Key::new(128, source.to_bytes()), 0).ok()?;
        Some(BlockState::new(&block, Imagined(block.dropped)))
    }

    fn limits(&self, slot: Slot, id: LimitsId) -> Option<impl Borrow<Limits>> {
        if id == LimitsId::NONE {
            return None;
        }
        self.entry::<Limits>("LIMITS", slot.index() * LimitsId::COUNT + u32::from(id.get()))
    }

    fn meter(&self, source: &SourceKey) -> Option<MeterState<Imagined>> {
        let meter = match self.hash::<SourceKey, Meter>("METERS").ok()?.get(source, 0) {
            Ok(meter) => meter,
            Err(MapError::KeyNotFound) => Meter::default(),
            Err(_) => return None,
        };
        Some(MeterState {
            packets: Imagined(meter.packets),
            bytes: Imagined(meter.bytes),
            connections: Imagined(meter.connections),
            suspected_until: Imagined(meter.suspected_until),
        })
    }

    fn connections(&self, source: &SourceKey) -> u64 {
        let count =
            self.hash::<SourceKey, OpenCount>("CONNECTIONS").and_then(|open| Ok(open.get(source, 0)?));
        count.unwrap_or_default().open()
    }

    fn note_opening(&self, _: &Headers, _: &SourceKey) {}
}

/// A word that is read, and whose changes are only imagined.
#[derive(Clone, Copy, Debug)]
pub struct Imagined(pub u64);

impl Word for Imagined {
    fn load(&self) -> u64 {
        self.0
    }

    fn compare_exchange(&self, _: u64, _: u64) -> Result<(), u64> {
        Ok(())
    }

    fn add(&self, _: u64) {}
}
