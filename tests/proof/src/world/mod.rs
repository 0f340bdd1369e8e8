//! A guard as it may stand when a packet arrives.

mod read;

pub use read::last_end;

use std::collections::BTreeMap;
use std::net::IpAddr;

use guard_common::Address;
use guard_common::abi::{Block, ServiceId, SourceKey};
use guard_userspace::blocks::nested::{Ends, Nested};
use guard_userspace::config::{Policy, Service};
use guard_userspace::memory::Memory;
use guard_userspace::plan;
use ipnet::IpNet;

use crate::frame::random::Space;

/// A policy and what the agent keeps beside it.
#[derive(Clone, Debug)]
pub struct World {
    /// One that `guard check` accepts; so may be what a property makes of it, or not.
    pub policy: Policy,
    /// As they were asked for.
    pub blocks: BTreeMap<IpNet, Ends>,
    /// What each source has open at each service.
    pub connections: BTreeMap<IpAddr, u64>,
    /// The boot clock when the first packet arrives, in nanoseconds.
    pub start: u64,
}

impl World {
    /// The tables of this guard.
    ///
    /// # Panics
    /// When the policy does not fit into them.
    pub fn memory(&self) -> Memory {
        let plan = plan::compile(&self.policy, &BTreeMap::new())
            .unwrap_or_else(|error| panic!("the policy of a world compiles: {error}"));
        let keys = |address: &IpAddr| {
            let address = Address::from(*address);
            plan.services.iter().map(move |service| SourceKey::new(service.id, &service.entry, address))
        };
        let open: Vec<(SourceKey, u64)> = self
            .connections
            .iter()
            .flat_map(|(address, open)| keys(address).map(|source| (source, *open)).collect::<Vec<_>>())
            .collect();
        let mut memory = Memory::new(plan);
        for (source, open) in open {
            memory.set_connections(source, open);
        }
        let block = |ends: Ends| Block { host_until: ends.host, services_until: ends.services, dropped: 0 };
        let mut prefixes = Nested::default();
        for (net, ends) in &self.blocks {
            let told = match net.prefix_len() == net.max_prefix_len() {
                true => [(*net, Some(*ends))].into(),
                false => prefixes.set(&[(*net, *ends)].into()),
            };
            for (net, ends) in told.into_iter().filter_map(|(net, ends)| Some((net, ends?))) {
                memory.block(net, block(ends));
            }
        }
        memory
    }

    /// The service of a number that this guard's tables know.
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        // Without numbers from before, the services are counted from 1.
        self.policy.services.get(usize::from(id.get()).checked_sub(1)?)
    }

    /// The sources and ports that this guard has something to say about.
    pub fn space(&self) -> Space {
        let lists = self.policy.services.iter().flat_map(|service| service.allow.iter().chain(&service.deny));
        let named = lists.chain(&self.policy.trusted).map(|prefix| prefix.net.addr());
        let blocked = self.blocks.keys().map(IpNet::addr);
        let ports = self.policy.services.iter().flat_map(|service| &service.ports);
        Space {
            sources: named.chain(blocked).collect(),
            ports: ports.flat_map(|range| [*range.start(), *range.end()]).collect(),
        }
    }

    /// With one block more; of two of the same prefix the later end wins.
    #[must_use]
    pub fn with_block(mut self, net: IpNet, ends: Ends) -> Self {
        let both = self.blocks.get(&net).map_or(ends, |other| ends.max(*other));
        self.blocks.insert(net, both);
        self
    }
}
