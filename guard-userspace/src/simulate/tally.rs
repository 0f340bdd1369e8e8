//! What was decided, summed up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use guard_common::abi::ServiceId;
use guard_common::{Action, Address, Verdict};
use serde::Serialize;

use super::Simulation;

/// Packets with one verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountedVerdict {
    /// Empty for traffic of no service.
    pub service: String,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// The packets of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceTally {
    pub source: IpAddr,
    pub packets: u64,
    /// Of these, packets that are dropped, or would be without monitor mode.
    pub dropped: u64,
    pub bytes: u64,
    /// Packets by reason.
    pub reasons: BTreeMap<&'static str, u64>,
}

pub(super) struct Tally {
    names: BTreeMap<ServiceId, String>,
    verdicts: BTreeMap<u32, (Verdict, u64, u64)>,
    sources: HashMap<Address, SourceTally>,
    last: u64,
}

impl Tally {
    pub(super) fn new(names: BTreeMap<ServiceId, String>) -> Self {
        Self { names, verdicts: BTreeMap::new(), sources: HashMap::new(), last: 0 }
    }

    pub(super) fn add(&mut self, verdict: Verdict, source: Option<Address>, length: usize, at: u64) {
        self.last = self.last.max(at);
        let length = length as u64;
        let (_, packets, bytes) = self.verdicts.entry(verdict.counter()).or_insert((verdict, 0, 0));
        *packets += 1;
        *bytes += length;
        let Some(source) = source else { return };
        let tally = self.sources.entry(source).or_insert_with(|| SourceTally {
            source: source.into(),
            packets: 0,
            dropped: 0,
            bytes: 0,
            reasons: BTreeMap::new(),
        });
        tally.packets += 1;
        tally.bytes += length;
        tally.dropped += u64::from(verdict.action != Action::Pass);
        *tally.reasons.entry(verdict.reason.name()).or_default() += 1;
    }

    pub(super) fn finish(self) -> Simulation {
        let counted = |(verdict, packets, bytes): &(Verdict, u64, u64)| CountedVerdict {
            service: self.names.get(&verdict.service).cloned().unwrap_or_default(),
            verdict: verdict.action.name(),
            reason: verdict.reason.name(),
            packets: *packets,
            bytes: *bytes,
        };
        let verdicts: Vec<_> = self.verdicts.values().map(counted).collect();
        let mut sources: Vec<_> = self.sources.into_values().collect();
        sources.sort_by_key(|tally| (Reverse((tally.dropped, tally.packets)), tally.source));
        Simulation {
            packets: verdicts.iter().map(|verdict| verdict.packets).sum(),
            bytes: verdicts.iter().map(|verdict| verdict.bytes).sum(),
            seconds: self.last as f64 / 1e9,
            verdicts,
            sources,
        }
    }
}
