//! The sources that send most, for those who want them in the metrics.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use guard_common::abi::{SourceKey, Traffic};

use super::Engine;
use crate::agent::metrics::SourceCounts;

/// The kernel counts for so long after a scrape: longer than between two of them.
const LEASE: Duration = Duration::from_secs(300);

impl Engine {
    /// The sources with most packets, most drops and most connections, as many of each as the policy asks for; none by default. Their packets
    /// are counted only while somebody asks.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn leaders(&self) -> Result<Vec<SourceCounts>> {
        let wanted = usize::from(self.policies().live().metrics.top_sources);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        self.maps.count_traffic(LEASE)?;
        let traffic: HashMap<SourceKey, Traffic> = self.maps.traffic()?.into_iter().collect();
        let open: HashMap<SourceKey, u64> = self.maps.connections()?.into_iter().collect();
        let packets = |key: &SourceKey| traffic.get(key).map_or(0, |traffic| traffic.packets);
        let dropped = |key: &SourceKey| traffic.get(key).map_or(0, |traffic| traffic.dropped);
        let connections = |key: &SourceKey| open.get(key).copied().unwrap_or(0);
        let mut leaders = HashSet::new();
        for figure in [&packets as &dyn Fn(&SourceKey) -> u64, &dropped, &connections] {
            let all: HashSet<&SourceKey> = traffic.keys().chain(open.keys()).collect();
            let mut some: Vec<&SourceKey> = all.into_iter().filter(|key| figure(key) > 0).collect();
            some.sort_unstable_by_key(|key| Reverse(figure(key)));
            leaders.extend(some.into_iter().take(wanted).copied());
        }
        let names = self.services_by_id();
        let counts = |key: SourceKey| SourceCounts {
            source: self.maps.source_net(&key),
            service: names.get(&key.service()).cloned().unwrap_or_default(),
            packets: packets(&key),
            dropped: dropped(&key),
            connections: connections(&key),
        };
        Ok(leaders.into_iter().map(counts).collect())
    }
}
