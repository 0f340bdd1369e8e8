//! The maps. `guard-userspace` loads, sizes, pins and fills them by these names.
//!
//! Tables of the policy exist twice, once for each slot (see `guard_common::epoch`): arrays by their index, tries by the array
//! around them. The sizes here are those of the smallest guard; the loader sets those of the configuration.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use guard_common::Verdict;
use guard_common::abi::{
    Block, Counter, Limits, LimitsId, Meter, PORT_WORDS, Policy, PortWord, Rule, RuleKeyV4, RuleKeyV6,
    Service, ServiceId, ServiceName, SourceKey,
};
use guard_common::verdict::COUNTERS as VERDICTS;

const SLOTS: usize = 2;

pub type RulesV4 = LpmTrie<RuleKeyV4, Rule, 1024>;
pub type RulesV6 = LpmTrie<RuleKeyV6, Rule, 1024>;

/// The live slot and the deadline of its confirmation.
#[btf_map]
pub static EPOCH: Array<u64, 1> = Array::new();

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

/// How many blocks have the scope `host`.
#[btf_map]
pub static HOST_BLOCKS: Array<u64, 1> = Array::new();

/// Blocks of single addresses, IPv4 in mapped form.
#[btf_map]
pub static BLOCKS: HashMap<[u8; 16], Block, 1024> = HashMap::new();

/// Blocks of prefixes, IPv4 in mapped form.
#[btf_map]
pub static BLOCK_PREFIXES: LpmTrie<[u8; 16], Block, 1024> = LpmTrie::new();

/// State of the limiter. The one table that may forget: a source that it evicts has been silent for long.
#[btf_map]
pub static METERS: LruHashMap<SourceKey, Meter, 1024> = LruHashMap::new();

/// Open connections.
#[btf_map]
pub static CONNECTIONS: HashMap<SourceKey, u64, 1024> = HashMap::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counter, { VERDICTS as usize }> = PerCpuArray::new();

/// What older sets of maps have counted. Only the agent uses it.
#[btf_map]
pub static CARRIED: Array<Counter, { VERDICTS as usize }> = Array::new();

/// Counts a packet under its verdict.
#[inline(always)]
pub fn count(verdict: Verdict, bytes: usize) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.counter()) {
        // SAFETY: the value is this CPU's own, and XDP programs on one CPU run one after the other.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
