//! The tables of the decision in plain memory: for `guard simulate`, and for the tests that hold the kernel against the host.

mod fragments;

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use guard_common::abi::{
    Block, Counter, End, Limits, LimitsId, Meter, Rule, Service, ServiceId, SourceKey, Standing, State,
};
use guard_common::epoch::{Epoch, Slot};
use guard_common::gcra::Word;
use guard_common::observe::Observer;
use guard_common::parse::{Headers, Protocol};
use guard_common::tables::{BlockState, MeterState};
use guard_common::{Address, Packet, Tables, Verdict, decide, fragments as parts};
use ipnet::IpNet;

pub use self::fragments::Fragments;
use crate::plan::Plan;

/// A guard in memory: one policy, and the state of its sources.
#[derive(Debug)]
pub struct Memory {
    plan: Plan,
    rules: LongestPrefix<(ServiceId, IpAddr), Rule>,
    destinations: LongestPrefix<(ServiceId, IpAddr), ()>,
    blocks: HashMap<[u8; 16], BlockState<MemoryWord>>,
    block_prefixes: LongestPrefix<IpAddr, BlockState<MemoryWord>>,
    host_blocks: bool,
    connections: HashMap<SourceKey, u64>,
    meters: RefCell<HashMap<SourceKey, MeterState<MemoryWord>>>,
    counters: BTreeMap<u32, (Verdict, Counter)>,
    fragments: Fragments,
}

impl Memory {
    pub fn new(plan: Plan) -> Self {
        let mut rules = LongestPrefix::default();
        let v4 = plan.rules_v4.iter().map(|rule| (rule.service, IpNet::V4(rule.net), rule.rule));
        let v6 = plan.rules_v6.iter().map(|rule| (rule.service, IpNet::V6(rule.net), rule.rule));
        for (service, net, rule) in v4.chain(v6) {
            rules.insert(net.prefix_len(), (service, net.network()), rule);
        }
        let mut destinations = LongestPrefix::default();
        for (service, net) in &plan.destinations {
            destinations.insert(net.prefix_len(), (*service, net.network()), ());
        }
        Self {
            plan,
            rules,
            destinations,
            blocks: HashMap::new(),
            block_prefixes: LongestPrefix::default(),
            host_blocks: false,
            connections: HashMap::new(),
            meters: RefCell::default(),
            counters: BTreeMap::new(),
            fragments: Fragments::default(),
        }
    }

    /// Blocks an address, or a prefix if it is shorter than one.
    pub fn block(&mut self, net: IpNet, block: Block) {
        self.host_blocks |= block.host_until != End::NONE;
        let state = BlockState::new(&block, MemoryWord::new(block.dropped));
        if net.prefix_len() == net.max_prefix_len() {
            self.blocks.insert(Address::from(net.addr()).to_bytes(), state);
        } else {
            self.block_prefixes.insert(net.prefix_len(), net.network(), state);
        }
    }

    /// Says how many connections a source has open.
    pub fn set_connections(&mut self, source: SourceKey, open: u64) {
        self.connections.insert(source, open);
    }

    /// Decides about a frame at `now` (nanoseconds) and counts it; `observer` is told each step.
    pub fn judge(
        &mut self,
        frame: &(impl Packet + ?Sized),
        now: u64,
        observer: &mut impl Observer,
    ) -> Verdict {
        let mut headers = Headers::default();
        let verdict = decide(frame, &mut headers, self, || now, observer);
        let verdict = parts::finish(frame, &headers, self, verdict, now);
        let (_, counter) = self.counters.entry(verdict.counter()).or_insert((verdict, Counter::default()));
        counter.packets += 1;
        counter.bytes += u64::from(headers.length);
        verdict
    }

    /// What was counted, by the index of the counter.
    pub fn counters(&self) -> &BTreeMap<u32, (Verdict, Counter)> {
        &self.counters
    }

    /// Puts the limiter's state of all sources back to what [`meters`](Self::meters) has told.
    pub fn set_meters(&mut self, meters: &HashMap<SourceKey, Meter>) {
        let shared = |meter: &Meter| MeterState {
            packets: MemoryWord::new(meter.packets),
            bytes: MemoryWord::new(meter.bytes),
            connections: MemoryWord::new(meter.connections),
            suspected_until: MemoryWord::new(meter.suspected_until),
        };
        *self.meters.get_mut() = meters.iter().map(|(source, meter)| (*source, shared(meter))).collect();
    }

    /// The limiter's state of every source that was seen.
    pub fn meters(&self) -> HashMap<SourceKey, Meter> {
        let plain = |meter: &MeterState<MemoryWord>| Meter {
            packets: meter.packets.load(),
            bytes: meter.bytes.load(),
            connections: meter.connections.load(),
            suspected_until: meter.suspected_until.load(),
        };
        self.meters.borrow().iter().map(|(source, meter)| (*source, plain(meter))).collect()
    }
}

impl Tables for Memory {
    type Word = MemoryWord;

    fn state(&self) -> State {
        State { epoch: Epoch::confirmed(Slot::A).word(), host_blocks: self.host_blocks.into(), changes: 0 }
    }

    fn enforces(&self, _: Slot) -> bool {
        self.plan.enforces
    }

    fn service_at(&self, _: Slot, protocol: Protocol, port: u16) -> Option<ServiceId> {
        self.plan.service_at(protocol, port)
    }

    fn service(&self, _: Slot, id: ServiceId) -> Option<Service> {
        self.plan.services.iter().find(|service| service.id == id).map(|service| service.entry)
    }

    fn is_destination(&self, _: Slot, id: ServiceId, address: Address) -> bool {
        self.destinations.get(address.into(), |network| (id, network)).is_some()
    }

    fn rule(&self, _: Slot, id: ServiceId, source: Address) -> Option<Rule> {
        self.rules.get(source.into(), |network| (id, network)).copied()
    }

    /// Each packet is looked up anew here.
    fn recall(&self, _: Address, _: Slot, _: ServiceId, _: u64) -> Standing {
        Standing::UNKNOWN
    }

    fn remember(&self, _: Address, _: Slot, _: ServiceId, _: Standing, _: u64) {}

    fn block(&self, source: Address) -> Option<BlockState<MemoryWord>> {
        self.blocks.get(&source.to_bytes()).cloned()
    }

    fn block_around(&self, source: Address) -> Option<BlockState<MemoryWord>> {
        self.block_prefixes.get(source.into(), |network| network).cloned()
    }

    fn limits(&self, _: Slot, id: LimitsId) -> Option<impl Borrow<Limits>> {
        if id == LimitsId::NONE { None } else { self.plan.limits(id) }
    }

    fn meter(&self, source: &SourceKey) -> Option<MeterState<MemoryWord>> {
        Some(self.meters.borrow_mut().entry(*source).or_default().clone())
    }

    fn connections(&self, source: &SourceKey) -> u64 {
        self.connections.get(source).copied().unwrap_or(0)
    }

    /// Sockets are what counts connections; there are none here.
    fn note_opening(&self, _: &Headers, _: &SourceKey) {}
}

/// A word of state, shared by those who look it up.
#[derive(Clone, Debug, Default)]
pub struct MemoryWord(Rc<Cell<u64>>);

impl MemoryWord {
    fn new(value: u64) -> Self {
        Self(Rc::new(Cell::new(value)))
    }
}

impl Word for MemoryWord {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        let seen = self.0.get();
        if seen != current {
            return Err(seen);
        }
        self.0.set(new);
        Ok(())
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}

/// A table that is asked for the longest prefix: one hash for each length, tried from the longest.
#[derive(Debug)]
struct LongestPrefix<K, V> {
    by_length: BTreeMap<u8, HashMap<K, V>>,
}

impl<K, V> Default for LongestPrefix<K, V> {
    fn default() -> Self {
        Self { by_length: BTreeMap::new() }
    }
}

impl<K: Eq + std::hash::Hash, V> LongestPrefix<K, V> {
    fn insert(&mut self, length: u8, key: K, value: V) {
        self.by_length.entry(length).or_default().insert(key, value);
    }

    /// `key` makes the key of the network that an address has at some length.
    fn get(&self, address: IpAddr, key: impl Fn(IpAddr) -> K) -> Option<&V> {
        self.by_length.iter().rev().find_map(|(length, entries)| {
            let network = IpNet::new(address, *length).ok()?.network();
            entries.get(&key(network))
        })
    }
}
