//! Who is allowed.

use std::net::IpAddr;

use guard_common::Reason;
use guard_common::abi::Class;
use guard_userspace::config::{Prefix, Service};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::moment::Moment;
use crate::world::World;

/// The longest prefix of `allow` and `deny` around the source says which, and trust goes before both: looked for by comparing
/// with every prefix.
pub fn the_class_is_that_of_the_lists(moment: &Moment<'_>) {
    let Some((index, source)) = moment.guarded() else { return };
    let expected = listed(moment.world, index, source);
    assert_eq!(moment.seen.class, expected, "{source}\n{moment}");
    let reason = moment.seen.verdict.reason;
    let found = match reason {
        Reason::NotAllowed => None,
        Reason::Denied => Some(Class::Deny),
        Reason::Trusted => Some(Class::Trusted),
        Reason::Allowed
        | Reason::Blocked
        | Reason::PacketRate
        | Reason::ByteRate
        | Reason::ConnectionRate
        | Reason::MaxConnections => Some(Class::Allow),
        Reason::NotIp | Reason::Unguarded | Reason::Fragment | Reason::Malformed | Reason::FragmentRate => {
            panic!("{reason:?} has no service\n{moment}")
        }
    };
    assert_eq!(found, expected, "{source}\n{moment}");
}

/// The source itself, put into a list, is in no other list's power.
pub fn a_longer_prefix_wins(moment: &Moment<'_>) {
    let Some((index, source)) = moment.guarded() else { return };
    if moment.seen.class == Some(Class::Trusted) {
        return;
    }
    let own = IpNet::from(source);
    let allowed = moment.at(&with_lists(moment.world, index, |service| {
        service.deny.retain(|prefix| prefix.net != own);
        service.allow.push(Prefix { net: own, line: None });
    }));
    assert_eq!(allowed.class, Some(Class::Allow), "{own} in allow\n{moment}");
    let denied = moment.at(&with_lists(moment.world, index, |service| {
        service.allow.retain(|prefix| prefix.net != own);
        service.deny.push(Prefix { net: own, line: None });
    }));
    assert_eq!(denied.verdict.reason, Reason::Denied, "{own} in deny\n{moment}");
}

/// Whoever a prefix speaks of does not care that everyone is allowed or denied.
pub fn a_shorter_prefix_changes_nothing(moment: &Moment<'_>) {
    let Some((index, _)) = moment.guarded() else { return };
    if moment.seen.class.is_none() {
        return;
    }
    let everyone =
        [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())].map(|net| Prefix { net, line: None });
    let lists: [fn(&mut Service) -> &mut Vec<Prefix>; 2] = [|own| &mut own.allow, |own| &mut own.deny];
    for list in lists {
        let other = moment.at(&with_lists(moment.world, index, |service| list(service).extend(everyone)));
        assert_eq!(other, moment.seen, "{moment}");
    }
}

/// Each prefix of each `allow`, alone.
pub fn removing_an_allow_never_lets_more_through(moment: &Moment<'_>) {
    for (index, service) in moment.world.policy.services.iter().enumerate() {
        for removed in &service.allow {
            let less = moment.at(&with_lists(moment.world, index, |service| {
                service.allow.retain(|prefix| prefix != removed);
            }));
            if moment.guarded().is_some_and(|(own, _)| own == index) {
                let more = moment.seen.verdict.reason.drops() && !less.verdict.reason.drops();
                assert!(!more, "without {removed}: {less:?}\n{moment}");
            } else {
                assert_eq!(less.verdict, moment.seen.verdict, "without {removed} elsewhere\n{moment}");
            }
        }
    }
}

fn with_lists(world: &World, index: usize, change: impl FnOnce(&mut Service)) -> World {
    let mut world = world.clone();
    world.policy.services.get_mut(index).map(change);
    world
}

fn listed(world: &World, index: usize, source: IpAddr) -> Option<Class> {
    let longest = |prefixes: &[Prefix]| {
        prefixes
            .iter()
            .map(|prefix| prefix.net)
            .filter(|net| net.contains(&source))
            .map(|net| net.prefix_len())
            .max()
    };
    let service = world.policy.services.get(index)?;
    if longest(&world.policy.trusted).is_some() {
        return Some(Class::Trusted);
    }
    match (longest(&service.allow), longest(&service.deny)) {
        (None, None) => None,
        (allow, deny) if allow > deny => Some(Class::Allow),
        _ => Some(Class::Deny),
    }
}
