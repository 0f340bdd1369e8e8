//! Whom an offence is held against: the source as a whole, or single addresses of it.
//!
//! A source can be a prefix with lawful neighbours in it, or with addresses that this host needs. Where the evidence names an address,
//! that address is blocked. A second address of the same prefix shows that somebody changes addresses: then the prefix is blocked.

use std::net::IpAddr;

use ipnet::IpNet;

use super::decide::spared;
use super::{Exemption, Kind, Memory, Offence, Rules};

/// So many addresses of one source are blocked for one offence.
const MOST: usize = 64;
/// The others of a source are quiet if they have no more than one of so many of its connections.
const QUIET: u64 = 10;

/// The offences that `offence` is, each with the network to block. `now` is milliseconds of the memory's clock.
pub fn targets(rules: &Rules<'_>, offence: &Offence, memory: &Memory, now: i64) -> Vec<Offence> {
    let whole = || vec![offence.clone()];
    let source = &offence.source;
    if source.prefix_len() == source.max_prefix_len() || offence.holders.is_empty() {
        return whole();
    }
    let of = |holder: &(IpAddr, u64)| offence.by(*holder);
    match spared(rules, source) {
        None => match named(offence) {
            Some(holder) if !has_others(memory, source, holder.0, rules, now) => vec![of(&holder)],
            _ => whole(),
        },
        // Only a part of the source is exempt: it cannot be blocked as a whole.
        Some(Exemption::Trusted(hit) | Exemption::Never(hit) | Exemption::Protected { hit, .. })
            if source.contains(&hit) && hit != *source =>
        {
            let is_to_blame = |target: &Offence| spared(rules, &target.source).is_none();
            let targets: Vec<_> = culprits(offence).iter().map(of).filter(is_to_blame).collect();
            if targets.is_empty() { whole() } else { targets }
        }
        Some(_) => whole(),
    }
}

/// The one address that the evidence names, if it names one: the others have no part in it, or done nothing that would be an offence by
/// itself.
fn named(offence: &Offence) -> Option<(IpAddr, u64)> {
    match (offence.kind, offence.holders.as_slice()) {
        (_, []) => None,
        (Kind::Connections, [first, others @ ..]) => {
            let rest: u64 = others.iter().map(|(_, count)| count).sum();
            let is_alone_over = first.1 > offence.threshold && rest <= offence.threshold;
            let are_others_quiet = rest.saturating_mul(QUIET) <= offence.count;
            (is_alone_over || are_others_quiet).then_some(*first)
        }
        // Packets were counted for the source: whose they are is known where only one address can have sent them.
        (Kind::Refused | Kind::Limited, [only]) => Some(*only),
        (Kind::Refused | Kind::Limited, _) => None,
    }
}

/// The addresses without which there would be no offence: those with most connections.
fn culprits(offence: &Offence) -> Vec<(IpAddr, u64)> {
    match (offence.kind, offence.holders.as_slice()) {
        (Kind::Connections, holders) => {
            let mut left: u64 = holders.iter().map(|(_, count)| count).sum();
            let mut culprits = Vec::new();
            for holder in holders.iter().take(MOST) {
                if left <= offence.threshold {
                    break;
                }
                left = left.saturating_sub(holder.1);
                culprits.push(*holder);
            }
            culprits
        }
        (Kind::Refused | Kind::Limited, [only]) => vec![*only],
        (Kind::Refused | Kind::Limited, _) => Vec::new(),
    }
}

/// Whether another address of the source was blocked before, and is not forgotten.
fn has_others(memory: &Memory, source: &IpNet, but: IpAddr, rules: &Rules<'_>, now: i64) -> bool {
    memory.has_within(source, &IpNet::from(but), now, rules.autoblock.forget_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoblock::{Automatic, Decision, InForce, decide};
    use crate::blocks::Protected;
    use crate::config::{Autoblock, Prefix};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn offence(kind: Kind, holders: &[(&str, u64)]) -> Offence {
        let holders: Vec<_> =
            holders.iter().map(|(address, count)| (address.parse().unwrap(), *count)).collect();
        Offence {
            source: net("fd00:1::/64"),
            service: "web".into(),
            kind,
            count: holders.iter().map(|(_, count)| count).sum(),
            threshold: 30,
            window: None,
            holders,
        }
    }

    /// The networks that are blocked, where nothing was blocked before but `before`.
    fn blocked(offence: &Offence, protected: &[&str], before: &[&str]) -> Vec<String> {
        let mut needed = Protected::default();
        needed.add_nets(protected.iter().map(|net| net.parse().unwrap()), "needed");
        let never = vec![Prefix { net: net("fd00:1::9/128"), line: None }];
        let policy = Autoblock {
            never: if protected.is_empty() { Vec::new() } else { never },
            ..Autoblock::default()
        };
        let rules = Rules { autoblock: &policy, trusted: &[], protected: &needed };
        let mut memory = Memory::default();
        for source in before {
            let earlier = Offence { source: net(source), ..offence.clone() };
            let Decision::Block(block): Decision = decide(&rules, &earlier, &memory, InForce::default(), 0)
            else {
                panic!("{source} is not blocked")
            };
            let block: Automatic = block;
            memory.note(&block, 0, 1, policy.forget_after);
        }
        let nets = targets(&rules, offence, &memory, 2).into_iter().map(|target| target.source.to_string());
        nets.collect()
    }

    #[test]
    fn the_address_that_the_evidence_names_is_blocked() {
        use Kind::{Connections, Limited, Refused};
        let (one, other) = ("fd00:1::1", "fd00:1::2");
        let cases: [(&str, Offence, &[&str], &str); 9] = [
            ("alone", offence(Connections, &[(one, 31)]), &[], "fd00:1::1/128"),
            ("beside a neighbour", offence(Connections, &[(one, 31), (other, 30)]), &[], "fd00:1::1/128"),
            ("nearly all of it", offence(Connections, &[(one, 30), (other, 3)]), &[], "fd00:1::1/128"),
            ("both", offence(Connections, &[(one, 31), (other, 31)]), &[], "fd00:1::/64"),
            ("spread", offence(Connections, &[(one, 20), (other, 20)]), &[], "fd00:1::/64"),
            ("a second address", offence(Connections, &[(one, 31)]), &["fd00:1::2/128"], "fd00:1::/64"),
            ("the same again", offence(Connections, &[(one, 31)]), &["fd00:1::1/128"], "fd00:1::1/128"),
            ("packets of the only one", offence(Limited, &[(one, 1)]), &[], "fd00:1::1/128"),
            ("packets of one of two", offence(Refused, &[(one, 9), (other, 1)]), &[], "fd00:1::/64"),
        ];
        for (name, offence, before, expected) in cases {
            assert_eq!(blocked(&offence, &[], before), [expected], "{name}");
        }
    }

    #[test]
    fn in_a_prefix_that_the_host_needs_single_addresses_are_blocked() {
        let host = ["fd00:1::100/128"];
        let (one, other, spared) = ("fd00:1::1", "fd00:1::2", "fd00:1::9");
        let connections = |holders: &[(&str, u64)]| blocked(&offence(Kind::Connections, holders), &host, &[]);
        assert_eq!(connections(&[(one, 31)]), ["fd00:1::1/128"]);
        assert_eq!(connections(&[(one, 20), (other, 20)]), ["fd00:1::1/128"], "the rest is no offence");
        assert_eq!(connections(&[(one, 40), (other, 40)]), ["fd00:1::1/128", "fd00:1::2/128"]);
        assert_eq!(connections(&[(spared, 40), (one, 31)]), ["fd00:1::1/128"], "one that is never blocked");
        assert_eq!(connections(&[(spared, 40)]), ["fd00:1::/64"], "which is exempt");
        let packets = |holders: &[(&str, u64)]| blocked(&offence(Kind::Limited, holders), &host, &[]);
        assert_eq!(packets(&[(one, 1)]), ["fd00:1::1/128"]);
        assert_eq!(packets(&[(one, 1), (other, 1)]), ["fd00:1::/64"], "which is exempt");
    }
}
