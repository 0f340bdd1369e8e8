//! What was counted.

use std::collections::BTreeMap;

use aya::maps::{PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use guard_common::Verdict;
use guard_common::abi::{Counter, ServiceId};

use super::{Error, Maps};

impl Maps {
    /// The counters of all verdicts that a packet for one of `services`, or for none, can get; summed over the CPUs and
    /// the sets of maps before this one.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self, services: &[ServiceId]) -> Result<BTreeMap<u32, (Verdict, Counter)>, Error> {
        let counters = PerCpuArray::<_, Counter>::try_from(self.get("COUNTERS")?)?;
        let mut sums = BTreeMap::new();
        for verdict in
            [ServiceId::NONE].iter().chain(services).flat_map(|service| Verdict::possible(*service))
        {
            let mut sum = self.carried(verdict)?;
            for counter in counters.get(&verdict.counter(), 0)?.iter() {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
            sums.insert(verdict.counter(), (verdict, sum));
        }
        Ok(sums)
    }

    /// The counter of one verdict on each CPU.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counter_by_cpu(&self, verdict: Verdict) -> Result<Vec<Counter>, Error> {
        let counters = PerCpuArray::<_, Counter>::try_from(self.get("COUNTERS")?)?;
        Ok(counters.get(&verdict.counter(), 0)?.to_vec())
    }

    pub(super) fn reset_counters(&mut self, service: ServiceId) -> Result<(), Error> {
        let cpus = nr_cpus().map_err(|(file, source)| Error::File {
            action: "cannot count the CPUs from",
            path: file.into(),
            source,
        })?;
        let mut counters = PerCpuArray::<_, Counter>::try_from(self.get_mut("COUNTERS")?)?;
        for verdict in Verdict::possible(service) {
            let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus]);
            let zeros = zeros.map_err(|source| Error::Table { table: "COUNTERS", source })?;
            counters.set(verdict.counter(), zeros, 0)?;
        }
        let mut carried = self.array_mut::<Counter>("CARRIED")?;
        for verdict in Verdict::possible(service) {
            carried.set(verdict.counter(), Counter::default(), 0)?;
        }
        Ok(())
    }
}
