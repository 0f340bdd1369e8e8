//! The maps. `guard-userspace` loads, sizes, pins and fills them by these names.
//!
//! Tables of the policy exist twice, once for each slot (see `guard_common::epoch`): arrays by their index, tries by the array
//! around them. The sizes here are those of the smallest guard; the loader sets those of the configuration.

use core::ptr::addr_of;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use guard_common::abi::{
    Admitted, Allowance, Block, Budget, Captured, Counter, Evidence, Fate, FlowKey, FragmentKey, Home,
    Limits, LimitsId, Lost, Meter, Offence, Opening, OpeningKey, PORT_WORDS, Policy, PortWord, Rule,
    RuleKeyV4, RuleKeyV6, Sample, SampleKey, Sampled, Service, ServiceId, ServiceName, SourceKey, State,
    Surplus, Tracked, Traffic, Watch,
};
use guard_common::verdict::COUNTERS as VERDICTS;

use crate::fragments::InHand;

const SLOTS: usize = 2;

pub type RulesV4 = LpmTrie<RuleKeyV4, Rule, 1024>;
pub type RulesV6 = LpmTrie<RuleKeyV6, Rule, 1024>;

#[btf_map]
pub static STATE: Array<State, 1> = Array::new();

#[btf_map]
pub static POLICIES: Array<Policy, SLOTS> = Array::new();

#[btf_map]
pub static PORTS: Array<PortWord, { PORT_WORDS as usize }> = Array::new();

#[btf_map]
pub static SERVICES: Array<Service, { SLOTS * ServiceId::COUNT as usize }> = Array::new();

/// Only the agent reads these.
#[btf_map]
pub static SERVICE_NAMES: Array<ServiceName, { ServiceId::COUNT as usize }> = Array::new();

#[btf_map]
pub static LIMITS: Array<Limits, { SLOTS * LimitsId::COUNT as usize }> = Array::new();

#[btf_map]
pub static RULES_V4: ArrayOfMaps<RulesV4, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub static RULES_V6: ArrayOfMaps<RulesV6, SLOTS> = ArrayOfMaps::new();

#[btf_map]
pub static ADMITTED: PerCpuArray<Admitted, { Admitted::PLACES as usize }> = PerCpuArray::new();

/// Blocks of single addresses, IPv4 in mapped form.
#[btf_map]
pub static BLOCKS: HashMap<[u8; 16], Block, 1024> = HashMap::new();

/// Blocks of prefixes, IPv4 in mapped form.
#[btf_map]
pub static BLOCK_PREFIXES: LpmTrie<[u8; 16], Block, 1024> = LpmTrie::new();

/// State of the limiter. The one table that may forget: a source that it evicts has been silent for long.
#[btf_map]
pub static METERS: LruHashMap<SourceKey, Meter, 1024> = LruHashMap::new();

/// A table of words that are added to. The kernel changes the size to that of the configuration.
pub type Sums<K> = HashMap<K, u64, 1024>;

/// How many connections each source has open ([`guard_common::abi::OpenCount`]). Only the agent removes sources, when they have had none
/// for a while.
#[btf_map]
pub static CONNECTIONS: Sums<SourceKey> = HashMap::new();

/// The connections that are counted there, by the cookie of their socket.
#[btf_map]
pub static SOCKETS: HashMap<u64, Tracked, 1024> = HashMap::new();

#[btf_map]
pub static HOME: Array<Home, 1> = Array::new();

/// How many of the connections that are counted each flow is: two, if its client uses a port towards two addresses of this host.
#[btf_map]
pub static FLOWS: Sums<FlowKey> = HashMap::new();

/// Handshakes that have begun. Anybody can begin one, so this table forgets, and no other state is in it.
#[btf_map]
pub static OPENINGS: LruHashMap<OpeningKey, Opening, 65536> = LruHashMap::new();

/// What became of first fragments that a service let in.
#[btf_map]
pub static FRAGMENTS_LET_IN: LruHashMap<FragmentKey, Fate, 65536> = LruHashMap::new();

/// What became of all others, and what waits for its first one. A table of its own: anybody can fill it.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fate, 65536> = LruHashMap::new();

/// The bounds of fragments of which nothing is known: of IPv4, and of IPv6.
#[btf_map]
pub static STRAYS: Array<u64, 2> = Array::new();

/// The same of each network.
#[btf_map]
pub static STRAYS_OF: LruHashMap<[u8; 16], u64, 4096> = LruHashMap::new();

/// The fragment that each CPU has in hand.
#[btf_map]
static IN_HAND: PerCpuArray<InHand, 1> = PerCpuArray::new();

#[btf_map]
pub static EVIDENCE: LruHashMap<SourceKey, Evidence, 16384> = LruHashMap::new();

/// When samples were taken, and of what.
#[btf_map]
pub static SAMPLED: LruHashMap<SampleKey, Sampled, 16384> = LruHashMap::new();

/// Sampled drops for the agent, about 4,000.
#[btf_map]
pub static SAMPLES: RingBuf<Sample, { 256 << 10 }> = RingBuf::new();

/// Sources over a threshold. A ring of its own: a flood of samples does not keep these from the agent.
#[btf_map]
pub static OFFENCES: RingBuf<Offence, { 64 << 10 }> = RingBuf::new();

/// Connections too many, about 16,000.
#[btf_map]
pub static SURPLUS: RingBuf<Surplus, { 256 << 10 }> = RingBuf::new();

/// Until when it is counted what sources send, in nanoseconds of the boot clock; 0: not at all.
#[btf_map]
pub static TRAFFIC_UNTIL: Array<u64, 1> = Array::new();

#[btf_map]
pub static TRAFFIC: LruHashMap<SourceKey, Traffic, 65536> = LruHashMap::new();

/// What somebody wants to see of drops.
#[btf_map]
pub static WATCH: Array<Watch, 1> = Array::new();

/// Dropped frames for somebody who watches, about 1,300: what the CPUs show in a third of a second. A ring of its own: these keep no
/// samples from the agent.
#[btf_map]
pub static CAPTURES: RingBuf<Captured, { 256 << 10 }> = RingBuf::new();

/// How much more each CPU may show: frames, and lines.
#[btf_map]
static ALLOWANCES: PerCpuArray<Allowance, 2> = PerCpuArray::new();

#[btf_map]
static BUDGETS: PerCpuArray<Budget, 1> = PerCpuArray::new();

#[btf_map]
static LOST: PerCpuArray<u64, { Lost::COUNT as usize }> = PerCpuArray::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counter, { VERDICTS as usize }> = PerCpuArray::new();

/// What older sets of maps have counted. Only the agent uses it.
#[btf_map]
pub static CARRIED: Array<Counter, { VERDICTS as usize }> = Array::new();

/// Counts a packet under the counter of its verdict.
#[inline(always)]
pub fn count(counter: u32, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
        }
    }
}

/// The packet that is being noted on each CPU. In a map rather than on the stack: what the verifier knows of a packet on each of its many
/// paths it does not know of this, so it walks once through what follows.
#[btf_map]
static NOTED: PerCpuArray<Sample, 1> = PerCpuArray::new();

/// Puts a packet where it is noted from.
#[inline(always)]
pub fn keep(packet: Sample) -> Option<&'static Sample> {
    let mut place = NOTED.get_ptr_mut(0)?;
    // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other. The instruction keeps what was written from
    // being carried along on the stack.
    unsafe {
        place.write(packet);
        core::arch::asm!("{0} = {0}", inout(reg) place, options(nostack));
        Some(&*place)
    }
}

#[inline(always)]
pub fn in_hand() -> Option<&'static mut InHand> {
    // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
    IN_HAND.get_ptr_mut(0).map(|hand| unsafe { &mut *hand })
}

/// Whether somebody wants to know what sources send, or did until the agent ended.
#[inline(always)]
pub fn may_count_traffic() -> bool {
    // SAFETY: an aligned word of a map, which is only ever changed as a whole.
    TRAFFIC_UNTIL.get_ptr(0).is_some_and(|until| unsafe { until.read_volatile() } != 0)
}

/// For how many drops this one stands (0: it is not looked into), and whether somebody watches it.
#[inline(always)]
pub fn weight(stretch: u64) -> (u32, bool) {
    let Some(budget) = BUDGETS.get_ptr_mut(0) else { return (0, false) };
    // SAFETY: as in `count`.
    unsafe { &mut *budget }.spend(stretch, watch_word)
}

/// The drop that was kept last on this CPU.
#[inline(always)]
pub fn kept() -> Option<&'static mut Sample> {
    // SAFETY: as in `keep`.
    NOTED.get_ptr_mut(0).map(|drop| unsafe { &mut *drop })
}

/// What a CPU may show of drops, each in a place of its own.
#[derive(Clone, Copy)]
pub enum Shown {
    Frame = 0,
    Line = 1,
}

/// The allowance of this CPU.
#[inline(always)]
pub fn allowance(what: Shown) -> Option<&'static mut Allowance> {
    // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
    ALLOWANCES.get_ptr_mut(what as u32).map(|allowance| unsafe { &mut *allowance })
}

/// Whether somebody watches, or did until the agent ended: the word of the watch.
#[inline(always)]
pub fn watch_word() -> u64 {
    // SAFETY: an array's value is always there; the word is stored as a whole.
    WATCH.get_ptr(0).map_or(0, |watch| unsafe { addr_of!((*watch).word).read_volatile() })
}

/// Counts what could not be noted.
#[inline(always)]
pub fn lose(what: Lost) {
    if let Some(lost) = LOST.get_ptr_mut(what as u32) {
        // SAFETY: the value is this CPU's own. An interrupt between reading and writing may lose a count of what was lost.
        unsafe { *lost += 1 };
    }
}
