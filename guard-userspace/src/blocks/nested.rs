//! Prefixes within prefixes.
//!
//! The kernel finds only the longest prefix around a source. So each prefix is told to it with what the prefixes around it say: the
//! later end wins, for each scope. Addresses need none of this: behind them the kernel asks for the prefix all the same.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// Until when a block holds, by the kernel's clock: 0 is not at all, the largest number forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub host: u64,
    /// Never before `host`.
    pub services: u64,
}

impl Ends {
    pub fn max(self, other: Self) -> Self {
        Self { host: self.host.max(other.host), services: self.services.max(other.services) }
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

    /// Sets what is said of a prefix; no ends remove it. Returns what the kernel is to be told: an entry, or none where it is to be
    /// removed.
    pub fn set(&mut self, net: IpNet, ends: Ends) -> Vec<(IpNet, Option<Ends>)> {
        if ends == Ends::default() {
            self.own.remove(&net);
        } else {
            self.own.insert(net, ends);
        }
        let within = self.own.range(net..).map(|(inner, _)| *inner).take_while(|inner| net.contains(inner));
        let mut told: Vec<_> = within.map(|inner| (inner, Some(self.merged(&inner)))).collect();
        if !self.own.contains_key(&net) {
            told.push((net, None));
        }
        told
    }

    /// The longest blocked prefix around an address or a prefix, itself not counted.
    pub(super) fn around(&self, net: &IpNet) -> Option<IpNet> {
        std::iter::successors(net.supernet(), IpNet::supernet).find(|outer| self.own.contains_key(outer))
    }

    /// With what all prefixes around it say.
    fn merged(&self, net: &IpNet) -> Ends {
        let outward = std::iter::successors(Some(*net), IpNet::supernet);
        outward.map(|outer| self.get(&outer)).fold(Ends::default(), Ends::max)
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

    proptest! {
        /// Whatever is set and removed in whatever order: the entry of the longest prefix says what all prefixes around an address say.
        #[test]
        fn the_longest_prefix_says_what_all_say(
            steps in prop::collection::vec((any::<u8>(), 0u8..=8, 0u64..4, 0u64..4), 1..30),
            address in any::<u8>(),
        ) {
            let mut nested = Nested::default();
            let mut kernel: HashMap<IpNet, Ends> = HashMap::new();
            for (bits, length, host, services) in steps {
                let ends = Ends { host, services: services.max(host) };
                for (net, told) in nested.set(net(bits, length), ends) {
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
        for (bits, length) in [(10, 4), (10, 7), (128, 1)] {
            nested.set(net(bits, length), Ends { host: 1, services: 1 });
        }
        assert_eq!(nested.around(&net(10, 8)), Some(net(10, 7)));
        assert_eq!(nested.around(&net(10, 7)), Some(net(10, 4)));
        assert_eq!(nested.around(&net(64, 8)), None);
    }
}
