//! The tables of the decision, over the maps.

use core::borrow::Borrow;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use guard_common::abi::{
    Admitted, Block, Limits, LimitsId, Meter, OpenCount, Opening, OpeningKey, Policy, PortWord, Rule,
    RuleKeyV4, RuleKeyV6, SERVICE_BITS, Service, ServiceId, SourceKey, Standing, State, port_word,
};
use guard_common::epoch::Slot;
use guard_common::parse::{Headers, Protocol};
use guard_common::tables::{BlockState, MeterState};
use guard_common::{Address, Family, Tables};

use crate::limiter_now;
use crate::maps::{
    ADMITTED, BLOCK_PREFIXES, BLOCKS, CONNECTIONS, LIMITS, METERS, OPENINGS, POLICIES, PORTS, RULES_V4,
    RULES_V6, SERVICES, STATE,
};
use crate::packet::hold;
use crate::word::MapWord;

pub struct Maps;

/// Not on the stack, which is small.
static NEW_METER: &Meter = &Meter { packets: 0, bytes: 0, connections: 0, suspected_until: 0 };

impl Tables for Maps {
    type Word = MapWord;

    #[inline(always)]
    fn state(&self) -> State {
        // SAFETY: an array's value is always there; each of its words is stored as a whole.
        STATE.get_ptr(0).map_or(State::default(), |state| unsafe { state.read_volatile() })
    }

    #[inline(always)]
    fn enforces(&self, slot: Slot) -> bool {
        POLICIES.get(slot.index()).is_some_and(Policy::enforces)
    }

    #[inline(always)]
    fn service_at(&self, slot: Slot, protocol: Protocol, port: u16) -> Option<ServiceId> {
        let (index, place) = port_word(slot, protocol, port);
        let word: *const PortWord = PORTS.get_ptr(index)?;
        // SAFETY: the value was just looked up, and its place is within it.
        match unsafe { word.cast::<u8>().add(place & (size_of::<PortWord>() - 1)).read() } {
            0 => None,
            id => Some(ServiceId::new(id)),
        }
    }

    #[inline(always)]
    fn service(&self, slot: Slot, id: ServiceId) -> Option<Service> {
        SERVICES.get(slot.index() * ServiceId::COUNT + u32::from(id.get())).copied()
    }

    #[inline(always)]
    fn is_destination(&self, slot: Slot, id: ServiceId, address: Address) -> bool {
        let [high, low] = address.words();
        has_destination(slot.index(), id.get().into(), high, low)
    }

    #[inline(always)]
    fn rule(&self, slot: Slot, id: ServiceId, source: Address) -> Option<Rule> {
        let rule = match source.family() {
            Family::V4(address) => {
                let key = Key::new(SERVICE_BITS + 32, RuleKeyV4::new(id, address));
                RULES_V4.get(slot.index()).and_then(|rules| rules.get(&key))
            }
            Family::V6(address) => {
                let key = Key::new(SERVICE_BITS + 128, RuleKeyV6::new(id, address));
                RULES_V6.get(slot.index()).and_then(|rules| rules.get(&key))
            }
        };
        // The compiler reads an optional rule where it is none, as if that had no effect, and the verifier refuses that. So there is a number
        // in any case.
        Rule::of_word(hold(rule.map_or(0, |rule| rule.word()) as usize) as u32)
    }

    #[inline(always)]
    fn recall(&self, source: Address, slot: Slot, id: ServiceId, changes: u64) -> Standing {
        let place = ADMITTED.get_ptr(Admitted::place(source, id));
        // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
        let Some(admitted) = place.and_then(|place| unsafe { place.as_ref() }) else {
            return Standing::UNKNOWN;
        };
        admitted.standing(source, slot, id, changes)
    }

    #[inline(always)]
    fn remember(&self, source: Address, slot: Slot, id: ServiceId, standing: Standing, changes: u64) {
        write_standing(&source, packed(slot, id, standing), changes);
    }

    #[inline(always)]
    fn block(&self, source: Address) -> Option<BlockState<MapWord>> {
        BLOCKS.get_ptr_mut(source.to_bytes()).map(in_place)
    }

    #[inline(always)]
    fn block_around(&self, source: Address) -> Option<BlockState<MapWord>> {
        let key = Key::new(128, source.to_bytes());
        BLOCK_PREFIXES.get(&key).map(|block| in_place(core::ptr::from_ref(block).cast_mut()))
    }

    #[inline(always)]
    fn limits(&self, slot: Slot, id: LimitsId) -> Option<impl Borrow<Limits>> {
        if id == LimitsId::NONE {
            return None;
        }
        LIMITS.get(limits_index(slot, id))
    }

    #[inline(always)]
    fn meter(&self, source: &SourceKey) -> Option<MeterState<MapWord>> {
        if let Some(meter) = METERS.get_ptr_mut(source) {
            return Some(metered(meter));
        }
        // Another CPU may be first: then its state is the one to use.
        let _ = METERS.insert(source, NEW_METER, u64::from(BPF_NOEXIST));
        METERS.get_ptr_mut(source).map(metered)
    }

    #[inline(always)]
    fn limiter_now(&self) -> Option<u64> {
        Some(limiter_now())
    }

    #[inline(always)]
    fn connections(&self, source: &SourceKey) -> u64 {
        CONNECTIONS.get_ptr(source).map_or(0, |open| {
            // SAFETY: the value was just looked up; it is a word that is changed as a whole.
            OpenCount::of_word(unsafe { open.read_volatile() }).open()
        })
    }

    #[inline(always)]
    fn note_opening(&self, syn: &Headers, source: &SourceKey) {
        begin(syn, source);
    }
}

/// A function of its own, since few services name destinations.
#[inline(never)]
fn has_destination(slot: u32, id: u32, high: u64, low: u64) -> bool {
    let id = ServiceId::new(id as u8);
    match Address::of_words([high, low]).family() {
        Family::V4(address) => {
            let key = Key::new(SERVICE_BITS + 32, RuleKeyV4::of_destination(id, address));
            RULES_V4.get(slot).is_some_and(|rules| rules.get(&key).is_some())
        }
        Family::V6(address) => {
            let key = Key::new(SERVICE_BITS + 128, RuleKeyV6::of_destination(id, address));
            RULES_V6.get(slot).is_some_and(|rules| rules.get(&key).is_some())
        }
    }
}

#[inline(never)]
fn write_standing(source: &Address, found: u64, changes: u64) {
    let (slot, id) = (Slot::of_index((found >> 40) as u32), ServiceId::new((found >> 32) as u8));
    let standing = Standing::of_word(found as u32);
    let Some(place) = ADMITTED.get_ptr_mut(Admitted::place(*source, id)) else { return };
    // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
    unsafe { (*place).remember(Admitted::new(*source, slot, id, standing, changes)) };
}

#[inline(always)]
fn packed(slot: Slot, id: ServiceId, standing: Standing) -> u64 {
    u64::from(slot.index()) << 40 | u64::from(id.get()) << 32 | u64::from(standing.word())
}

/// A function of its own, since it needs much of the stack.
#[inline(never)]
fn begin(syn: &Headers, source: &SourceKey) {
    let key = OpeningKey::new(syn.source, syn.source_port, syn.sequence);
    if OPENINGS.insert(key, Opening::new(*source), u64::from(BPF_NOEXIST)).is_err()
        && let Some(known) = OPENINGS.get_ptr_mut(key)
    {
        // SAFETY: the value was just looked up; what several CPUs may write to it at once is one word, and the same.
        unsafe { (*known).begin_again(source) };
    }
}

/// Where limits lie in their table.
#[inline(always)]
pub fn limits_index(slot: Slot, id: LimitsId) -> u32 {
    slot.index() * LimitsId::COUNT + u32::from(id.get())
}

#[inline(always)]
fn in_place(block: *mut Block) -> BlockState<MapWord> {
    // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
    unsafe {
        BlockState {
            host_until: addr_of_mut!((*block).host_until).read_volatile(),
            services_until: addr_of_mut!((*block).services_until).read_volatile(),
            dropped: MapWord::new(addr_of_mut!((*block).dropped)),
        }
    }
}

#[inline(always)]
fn metered(meter: *mut Meter) -> MeterState<MapWord> {
    // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
    unsafe {
        MeterState {
            packets: MapWord::new(addr_of_mut!((*meter).packets)),
            bytes: MapWord::new(addr_of_mut!((*meter).bytes)),
            connections: MapWord::new(addr_of_mut!((*meter).connections)),
            suspected_until: MapWord::new(addr_of_mut!((*meter).suspected_until)),
        }
    }
}
