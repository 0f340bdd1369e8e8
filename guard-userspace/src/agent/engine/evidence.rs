//! What can be held against sources: connections that the packet path saw come in, and that their clients have not closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use guard_common::abi::{SourceKey, Tracked};
use ipnet::IpNet;

use crate::datapath::{Error, Maps};

/// The connections that are evidence, by source and address.
pub(super) struct Proven(HashMap<SourceKey, HashMap<IpAddr, u64>>);

impl Proven {
    /// # Errors
    /// When the kernel's table cannot be read.
    pub(super) fn read(maps: &Maps) -> Result<Self, Error> {
        Ok(Self::of_connections(maps.tracked()?.into_iter().map(|(_, tracked)| tracked)))
    }

    fn of_connections(connections: impl Iterator<Item = Tracked>) -> Self {
        let mut flows = HashSet::new();
        let mut by_source: HashMap<SourceKey, HashMap<IpAddr, u64>> = HashMap::new();
        for Tracked { source, flow, marks, .. } in connections {
            // A client's end counts once, however many sockets claim it.
            if marks.is_evidence() && marks.counts() && flows.insert(flow) {
                *by_source.entry(source).or_default().entry(flow.address().into()).or_default() += 1;
            }
        }
        Self(by_source)
    }

    /// The addresses of a source, the one with most connections first.
    pub(super) fn holders(&self, source: &SourceKey) -> Vec<(IpAddr, u64)> {
        let holders = self.0.get(source).into_iter().flatten();
        let mut holders: Vec<_> = holders.map(|(address, count)| (*address, *count)).collect();
        holders.sort_unstable_by_key(|(address, count)| (Reverse(*count), *address));
        holders
    }

    /// How many connections a network has, by service. `name` tells the name of the service of a source.
    pub(super) fn within(
        &self,
        net: &IpNet,
        name: impl Fn(&SourceKey) -> Option<String>,
    ) -> BTreeMap<String, u64> {
        let mut open = BTreeMap::new();
        for (source, holders) in &self.0 {
            let held: u64 =
                holders.iter().filter(|(address, _)| net.contains(*address)).map(|(_, count)| count).sum();
            if let Some(service) = name(source).filter(|_| held > 0) {
                *open.entry(service).or_default() += held;
            }
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use guard_common::Address;
    use guard_common::abi::{FlowKey, Marks, Service, ServiceId};

    use super::*;

    fn connection(host: u8, port: u16, marks: u32) -> Tracked {
        let mut bytes = [0; 16];
        (bytes[0], bytes[15]) = (0xfd, host);
        let address = Address::v6(bytes);
        let source = SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), address);
        let flow = FlowKey::new(address, port, ServiceId::new(1));
        Tracked { source, flow, namespace: 1, marks: Marks(marks) }
    }

    #[test]
    fn only_what_came_in_and_is_not_closed_counts_and_once() {
        let connections = [
            connection(1, 1, 0),
            connection(1, 2, 0),
            connection(1, 2, 0),
            connection(2, 1, 0),
            connection(3, 1, Marks::FOUND),
            connection(3, 2, Marks::CLOSED_BY_CLIENT),
            connection(4, 1, Marks::CLOSED_BY_CLIENT | Marks::SERVED),
        ];
        let proven = Proven::of_connections(connections.into_iter());
        let source = connection(1, 1, 0).source;
        let holders: Vec<_> = proven.holders(&source);
        let expected = [("fd00::1", 2), ("fd00::2", 1), ("fd00::4", 1)];
        assert_eq!(holders, expected.map(|(address, count)| (address.parse().unwrap(), count)));
        let within = |net: &str| proven.within(&net.parse().unwrap(), |_| Some("a".into()));
        assert_eq!(within("fd00::/64"), BTreeMap::from([("a".into(), 4)]));
        assert_eq!(within("fd00::1/128"), BTreeMap::from([("a".into(), 2)]));
        assert_eq!(within("fd00::3/128"), BTreeMap::new());
    }
}
