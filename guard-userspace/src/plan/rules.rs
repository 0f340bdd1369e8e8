//! The rules of one service: its `allow`, `deny` and `sources` and the trusted prefixes, merged into one table.
//!
//! The kernel asks for the longest prefix around a source, once. So each prefix that any of the lists names gets an entry that says what
//! holds within it, the lists' prefixes around it included: the longest of `allow` and `deny` decides, the longest of
//! `sources` names the limits, and trust reaches into everything below.

use std::collections::BTreeMap;

use guard_common::abi::{Class, LimitsId, Rule};
use ipnet::IpNet;

/// What the lists say of one prefix itself.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    class: Option<Listed>,
    limits: Option<LimitsId>,
    trusted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Allow,
    Deny,
}

/// The lists of one service.
pub(super) struct Lists<'a> {
    pub(super) allow: &'a mut dyn Iterator<Item = IpNet>,
    pub(super) deny: &'a mut dyn Iterator<Item = IpNet>,
    pub(super) sources: &'a mut dyn Iterator<Item = (IpNet, LimitsId)>,
    pub(super) trusted: &'a mut dyn Iterator<Item = IpNet>,
    /// The limits of a source that no entry of `sources` names.
    pub(super) limits: LimitsId,
}

/// The rules, an outer prefix before those within it. Prefixes that nobody is allowed from and that deny nothing have none.
pub(super) fn merge(lists: Lists<'_>) -> Vec<(IpNet, Rule)> {
    let mut named: BTreeMap<IpNet, Named> = BTreeMap::new();
    for net in lists.allow {
        named.entry(net).or_default().class = Some(Listed::Allow);
    }
    for net in lists.deny {
        named.entry(net).or_default().class = Some(Listed::Deny);
    }
    for (net, limits) in lists.sources {
        named.entry(net).or_default().limits = Some(limits);
    }
    for net in lists.trusted {
        named.entry(net).or_default().trusted = true;
    }
    let outermost = Named { class: None, limits: Some(lists.limits), trusted: false };
    let mut rules = Vec::with_capacity(named.len());
    // An `IpNet` sorts by address, then by length: a prefix comes right before all that lies within it.
    let mut around: Vec<(IpNet, Named)> = Vec::new();
    for (net, own) in named {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
            around.pop();
        }
        let outer = around.last().map_or(outermost, |(_, outer)| *outer);
        let holds = Named {
            class: own.class.or(outer.class),
            limits: own.limits.or(outer.limits),
            trusted: own.trusted || outer.trusted,
        };
        around.push((net, holds));
        if let Some(rule) = holds.rule() {
            rules.push((net, rule));
        }
    }
    rules
}

impl Named {
    fn rule(self) -> Option<Rule> {
        let limits = self.limits.unwrap_or(LimitsId::NONE);
        match (self.trusted, self.class) {
            (true, _) => Some(Rule::new(Class::Trusted, LimitsId::NONE)),
            (false, Some(Listed::Allow)) => Some(Rule::new(Class::Allow, limits)),
            (false, Some(Listed::Deny)) => Some(Rule::new(Class::Deny, LimitsId::NONE)),
            (false, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn merged(
        allow: &[IpNet],
        deny: &[IpNet],
        sources: &[(IpNet, LimitsId)],
        trusted: &[IpNet],
    ) -> Vec<(IpNet, Rule)> {
        merge(Lists {
            allow: &mut allow.iter().copied(),
            deny: &mut deny.iter().copied(),
            sources: &mut sources.iter().copied(),
            trusted: &mut trusted.iter().copied(),
            limits: LimitsId::new(1),
        })
    }

    #[test]
    fn limits_come_from_sources_and_the_verdict_from_allow_and_deny() {
        let sources = [("10.0.0.0/12".parse().unwrap(), LimitsId::new(2))];
        let rules = merged(
            &nets(&["10.0.0.0/8", "10.0.5.0/24", "192.168.0.0/16"]),
            &nets(&["10.66.0.0/16"]),
            &sources,
            &nets(&["192.168.0.0/15"]),
        );
        let expected = [
            ("10.0.0.0/8", Class::Allow, 1),
            ("10.0.0.0/12", Class::Allow, 2),
            ("10.0.5.0/24", Class::Allow, 2),
            ("10.66.0.0/16", Class::Deny, 0),
            ("192.168.0.0/15", Class::Trusted, 0),
            ("192.168.0.0/16", Class::Trusted, 0),
        ];
        let expected: Vec<(IpNet, Rule)> = expected
            .map(|(net, class, limits)| (net.parse().unwrap(), Rule::new(class, LimitsId::new(limits))))
            .into();
        assert_eq!(rules, expected);
    }

    fn longest<T: Copy>(list: impl Iterator<Item = (IpNet, T)>, address: Ipv4Addr) -> Option<T> {
        let around = list.filter(|(net, _)| net.contains(&std::net::IpAddr::from(address)));
        around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, value)| value)
    }

    proptest! {
        /// One look-up in the merged table says the same as a look-up in each list.
        #[test]
        fn the_merged_table_says_what_the_lists_say(
            entries in prop::collection::vec((0u8..4, any::<u32>(), 0u8..=8), 0..12),
            address in any::<u32>(),
        ) {
            // A small space, so that prefixes meet: 8 bits of address.
            let net = |bits: u32, length| -> IpNet {
                ipnet::Ipv4Net::new((bits & 0xff00_0000).into(), length).unwrap().trunc().into()
            };
            let of = |kind| entries.iter().filter(move |entry| entry.0 == kind).map(move |entry| net(entry.1, entry.2)).collect::<Vec<_>>();
            let (mut allow, deny, sources, trusted) = (of(0), of(1), of(2), of(3));
            allow.retain(|net| !deny.contains(net));
            let sources: Vec<_> = sources.into_iter().map(|net| (net, LimitsId::new(2 + net.prefix_len()))).collect();
            let address = Ipv4Addr::from(address);

            let listed = allow.iter().map(|net| (*net, true)).chain(deny.iter().map(|net| (*net, false)));
            let expected = if longest(trusted.iter().map(|net| (*net, ())), address).is_some() {
                Some(Class::Trusted)
            } else {
                longest(listed, address).map(|allowed| if allowed { Class::Allow } else { Class::Deny })
            };
            let rules = merged(&allow, &deny, &sources, &trusted);
            let found = longest(rules.into_iter(), address);
            prop_assert_eq!(found.map(Rule::class), expected);
            if expected == Some(Class::Allow) {
                let limits = longest(sources.into_iter(), address).unwrap_or(LimitsId::new(1));
                prop_assert_eq!(found.map(Rule::limits), Some(limits));
            }
        }
    }
}
