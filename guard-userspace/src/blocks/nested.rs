//! Prefixes within prefixes.
//!
//! The kernel finds only the longest prefix around a source. So each prefix is told to it with what the prefixes around it say: the
//! later end wins, for each scope. Addresses need none of this: behind them the kernel asks for the prefix all the same.

use std::collections::BTreeMap;

use guard_common::abi::End;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Until when a block holds, by the kernel's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub host: End,
    /// Never before `host`.
    pub services: End,
}

impl Ends {
    pub fn max(self, other: Self) -> Self {
        Self { host: self.host.max(other.host), services: self.services.max(other.services) }
    }
}

impl Ends {
    /// Whether it goes on at `at` for longer than another, in either scope. One second is no difference: the ledger has milliseconds of the
    /// time of day.
    pub(super) fn is_longer_than(self, other: Self, at: u64) -> bool {
        let longer = |own: End, other: End| own.is_after(|| at) && own > other.next();
        longer(self.host, other.host) || longer(self.services, other.services)
    }

    pub(super) fn is_other_than(self, other: Self) -> bool {
        self.is_longer_than(other, 0) || other.is_longer_than(self, 0)
    }
}

/// The blocked prefixes, each with what was said of itself.
#[derive(Debug, Default)]
pub struct Nested {
    own: BTreeMap<IpNet, Ends>,
}

impl Nested {
    pub(super) fn get(&self, net: &IpNet) -> Ends {
        self.own.get(net).copied().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&IpNet, &Ends)> {
        self.own.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.own.len()
    }

    /// Sets what is said of prefixes; no ends remove one. Returns what the kernel is to be told of which: an entry, or none where it is
    /// to be removed.
    pub fn set(&mut self, changes: &BTreeMap<IpNet, Ends>) -> BTreeMap<IpNet, Option<Ends>> {
        let mut told = BTreeMap::new();
        for (net, ends) in changes {
            if *ends == Ends::default() {
                self.own.remove(net);
                told.insert(*net, None);
            } else {
                self.own.insert(*net, *ends);
            }
        }
        let mut outermost: Option<IpNet> = None;
        // A prefix comes before those within it.
        for net in changes.keys() {
            if outermost.is_none_or(|outer| !outer.contains(net)) {
                outermost = Some(*net);
                told.extend(self.within(net).into_iter().map(|(net, ends)| (net, Some(ends))));
            }
        }
        told
    }

    /// The longest blocked prefix around an address or a prefix, itself not counted.
    pub(super) fn around(&self, net: &IpNet) -> Option<IpNet> {
        std::iter::successors(net.supernet(), IpNet::supernet).find(|outer| self.own.contains_key(outer))
    }

    /// What all prefixes around an address or a prefix say, itself counted.
    pub(super) fn merged(&self, net: &IpNet) -> Ends {
        let outward = std::iter::successors(Some(*net), IpNet::supernet);
        outward.map(|outer| self.get(&outer)).fold(Ends::default(), Ends::max)
    }

    /// All blocked prefixes, each with what all around it say.
    pub(super) fn all(&self) -> Vec<(IpNet, Ends)> {
        let everything = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        everything.iter().flat_map(|net| self.within(net)).collect()
    }

    /// The blocked prefixes within one, itself counted, each with what all around it say.
    fn within(&self, net: &IpNet) -> Vec<(IpNet, Ends)> {
        let around = net.supernet().map(|outer| self.merged(&outer)).unwrap_or_default();
        // Those around the one that is looked at, the innermost last.
        let mut outward: Vec<(IpNet, Ends)> = Vec::new();
        let inside = self.own.range(net..).take_while(|(inner, _)| net.contains(*inner));
        let merge = |(inner, own): (&IpNet, &Ends)| {
            while outward.last().is_some_and(|(outer, _)| !outer.contains(inner)) {
                outward.pop();
            }
            let ends = own.max(outward.last().map_or(around, |(_, ends)| *ends));
            outward.push((*inner, ends));
            (*inner, ends)
        };
        inside.map(merge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn net(bits: u8, length: u8) -> IpNet {
        IpNet::new(std::net::Ipv4Addr::new(bits, 0, 0, 0).into(), length).unwrap().trunc()
    }

    fn end(second: u64) -> End {
        if second == 0 { End::NONE } else { End::not_before(second * 1_000_000_000) }
    }

    proptest! {
        /// Whatever is set and removed in whatever order: the entry of the longest prefix says what all prefixes around an address say.
        #[test]
        fn the_longest_prefix_says_what_all_say(
            steps in prop::collection::vec(
                prop::collection::vec((any::<u8>(), 0u8..=8, 0u64..4, 0u64..4), 1..6),
                1..10,
            ),
            address in any::<u8>(),
        ) {
            let mut nested = Nested::default();
            let mut kernel: HashMap<IpNet, Ends> = HashMap::new();
            for step in steps {
                let change = |(bits, length, host, services): (u8, u8, u64, u64)| {
                    (net(bits, length), Ends { host: end(host), services: end(services.max(host)) })
                };
                for (net, told) in nested.set(&step.into_iter().map(change).collect()) {
                    match told {
                        Some(ends) => kernel.insert(net, ends),
                        None => kernel.remove(&net),
                    };
                }
            }
            let around = |nets: Vec<(IpNet, Ends)>| nets.into_iter().filter(|(net, _)| net.contains(&self::net(address, 8))).collect::<Vec<_>>();
            let said = around(nested.iter().map(|(net, ends)| (*net, *ends)).collect());
            let expected = said.iter().fold(Ends::default(), |sum, (_, ends)| sum.max(*ends));
            let mut found = around(kernel.into_iter().collect());
            found.sort_by_key(|(net, _)| net.prefix_len());
            prop_assert_eq!(found.last().map_or(Ends::default(), |(_, ends)| *ends), expected);
        }
    }

    #[test]
    fn the_prefix_around_is_the_longest() {
        let mut nested = Nested::default();
        let nets = [(10, 4), (10, 7), (128, 1)].map(|(bits, length)| net(bits, length));
        nested.set(&nets.map(|net| (net, Ends { host: end(1), services: end(1) })).into());
        assert_eq!(nested.around(&net(10, 8)), Some(net(10, 7)));
        assert_eq!(nested.around(&net(10, 7)), Some(net(10, 4)));
        assert_eq!(nested.around(&net(64, 8)), None);
    }
}
