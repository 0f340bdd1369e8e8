//! Blocks of the ledger that the kernel's tables have no room for: the capacity was lowered, or a command wrote more without an agent.
//!
//! As many are in force as fit: what the kernel has already, then those of the scope `host`, then those that last longest. The others come as
//! soon as there is room.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use guard_common::abi::End;
use ipnet::IpNet;

use super::nested::Ends;
use super::told::{Entries, is_address};

#[derive(Debug, Default)]
pub(super) struct LeftOut {
    nets: HashSet<IpNet>,
    /// For how many addresses there is room, and for as many prefixes.
    room: usize,
}

impl LeftOut {
    /// Takes out of `wanted` what does not fit beside the rest.
    pub(super) fn of(wanted: &mut HashMap<IpNet, Ends>, present: &Entries, room: u32) -> Self {
        // A capacity is a number of entries in memory.
        let room = room as usize;
        let mut nets = HashSet::new();
        for of_addresses in [true, false] {
            let mut all: Vec<(IpNet, Ends)> = wanted
                .iter()
                .filter(|(net, _)| is_address(net) == of_addresses)
                .map(|(net, ends)| (*net, *ends))
                .collect();
            if all.len() <= room {
                continue;
            }
            all.sort_by_key(|(net, ends)| {
                let is_host = ends.host != End::NONE;
                (Reverse((present.contains_key(net), is_host, ends.services)), *net)
            });
            nets.extend(all.drain(room..).map(|(net, _)| net));
        }
        wanted.retain(|net, _| !nets.contains(net));
        Self { nets, room }
    }

    pub(super) fn contains(&self, net: &IpNet) -> bool {
        self.nets.contains(net)
    }

    pub(super) fn forget<'a>(&mut self, nets: impl IntoIterator<Item = &'a IpNet>) {
        if !self.nets.is_empty() {
            for net in nets {
                self.nets.remove(net);
            }
        }
    }

    /// Whether something of it fits beside so many addresses and prefixes.
    pub(super) fn fits(&self, addresses: usize, prefixes: usize) -> bool {
        self.nets.iter().any(|net| if is_address(net) { addresses < self.room } else { prefixes < self.room })
    }

    /// What is to be told of it; none where all fit.
    pub(super) fn problem(&self) -> Option<String> {
        let (count, room) = (self.nets.len(), self.room);
        (count > 0).then(|| {
            format!(
                "{count} blocks of the ledger are not in force: the tables have room for {room} addresses and {room} prefixes; blocks of the scope \
                 host came first, then those that last longest; raise blocks in [capacity] of the policy and start the agent again, or unblock some"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::abi::Block;

    fn ends(host: u64, services: u64) -> Ends {
        let end = |second: u64| match second {
            0 => End::NONE,
            u64::MAX => End::FOREVER,
            second => End::not_before(second * 1_000_000_000),
        };
        Ends { host: end(host), services: end(services) }
    }

    #[test]
    fn the_host_comes_first_and_then_what_lasts_longest() {
        let blocks = [
            ("10.0.0.1/32", ends(0, 10)),
            ("10.0.0.2/32", ends(5, 5)),
            ("10.0.0.3/32", ends(0, u64::MAX)),
            ("10.0.0.4/32", ends(0, 20)),
            ("10.1.0.0/24", ends(0, 1)),
        ];
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let all = || blocks.iter().map(|(text, ends)| (net(text), *ends)).collect::<HashMap<_, _>>();
        for (present, room, expected) in [
            (None, 5, vec![]),
            (None, 3, vec!["10.0.0.1/32"]),
            (None, 2, vec!["10.0.0.1/32", "10.0.0.4/32"]),
            (None, 1, vec!["10.0.0.1/32", "10.0.0.3/32", "10.0.0.4/32"]),
            // What is in force is not let in for another.
            (Some("10.0.0.1/32"), 2, vec!["10.0.0.3/32", "10.0.0.4/32"]),
        ] {
            let present: Entries = present.iter().map(|text| (net(text), Block::default())).collect();
            let mut wanted = all();
            let mut left_out = LeftOut::of(&mut wanted, &present, room);
            let expected: HashSet<IpNet> = expected.into_iter().map(net).collect();
            assert_eq!(left_out.nets, expected, "{room}");
            assert_eq!(wanted.len() + expected.len(), blocks.len());
            assert_eq!(left_out.problem().is_some(), !expected.is_empty());
            assert!(!left_out.fits(room as usize, 0) || expected.is_empty());
            assert_eq!(left_out.fits(room as usize - 1, room as usize), !expected.is_empty());
            left_out.forget(&expected);
            assert!(left_out.problem().is_none());
        }
    }
}
