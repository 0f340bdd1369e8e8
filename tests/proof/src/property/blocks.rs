//! Who is blocked.

use std::net::IpAddr;

use guard_common::abi::{Class, End};
use guard_common::parse::{Kind, is_neighbour_discovery};
use guard_common::{Action, Reason};
use guard_userspace::blocks::nested::Ends;
use ipnet::IpNet;

use crate::moment::{Moment, Seen};
use crate::world::last_end;

/// One block more, of any width around the source and with any end.
pub fn a_block_never_lets_more_through(moment: &Moment<'_>) {
    let Some(source) = source(moment) else { return };
    let (last, next) = (last_end(moment.now), End::not_before(moment.now + 1));
    let ends = [(End::NONE, End::FOREVER), (next, next), (last, next), (End::NONE, last)];
    for (net, (host, services)) in around(source).into_iter().zip(ends) {
        let with = blocked(moment, net, host, services);
        let more = moment.seen.verdict.reason.drops() && !with.verdict.reason.drops();
        assert!(!more, "{net} blocked until {host:?}, {services:?}: {with:?}\n{moment}");
    }
}

/// A block of the source's services stops it there, and a block of the host everywhere, also where services only monitor; unless it is
/// trusted, or this is neighbour discovery.
pub fn a_block_in_force_stops_all_but_the_trusted(moment: &Moment<'_>) {
    let Some(source) = source(moment) else { return };
    for net in around(source) {
        let [services, host] = [End::NONE, End::FOREVER].map(|host| blocked(moment, net, host, End::FOREVER));
        let reason = moment.seen.verdict.reason;
        if moment.seen.kind == Ok(Kind::Fragment) {
            // For the reason of its first fragment, or for the block.
            let is_stopped = reason == Reason::Trusted || host.verdict.action == Action::Drop;
            assert!(is_stopped, "host {net}: {host:?}\n{moment}");
            continue;
        }
        let expected = match (moment.seen.kind, moment.guarded().is_some(), moment.seen.class) {
            (_, true, Some(Class::Allow)) => [Reason::Blocked; 2],
            // Refused before a block is asked for.
            (_, true, Some(Class::Deny) | None) | (Err(_), false, _) => [reason; 2],
            (_, true, Some(Class::Trusted)) => [Reason::Trusted; 2],
            (Ok(_), false, _) if is_neighbour_discovery(moment.frame, &moment.seen.headers) => [reason; 2],
            (Ok(_), false, _) => [reason, Reason::Blocked],
        };
        let reasons = [services.verdict.reason, host.verdict.reason];
        assert_eq!(reasons, expected, "services or host {net}\n{moment}");
        if host.verdict.reason.drops() {
            assert_eq!(host.verdict.action, Action::Drop, "host {net}\n{moment}");
        }
    }
}

/// Its end is the first moment without it.
pub fn a_block_that_is_over_changes_nothing(moment: &Moment<'_>) {
    let Some(source) = source(moment) else { return };
    for net in around(source) {
        let last = last_end(moment.now);
        let with = blocked(moment, net, last, last);
        assert_eq!(with, moment.seen, "{net}\n{moment}");
    }
}

/// The source of a packet that the blocks are asked about.
fn source(moment: &Moment<'_>) -> Option<IpAddr> {
    match moment.seen.kind {
        Ok(Kind::Segment(_) | Kind::OtherIp | Kind::Fragment) | Err(_) => moment.source(),
        Ok(Kind::NotIp) => None,
    }
}

/// The address, and prefixes around it.
pub(super) fn around(source: IpAddr) -> Vec<IpNet> {
    let own = IpNet::from(source);
    let length = own.max_prefix_len();
    let net = |length| IpNet::new(source, length).map(|net| net.trunc());
    [length, length - 1, length / 2, 0].into_iter().flat_map(net).collect()
}

fn blocked(moment: &Moment<'_>, net: IpNet, host: End, services: End) -> Seen {
    moment.at(&moment.world.clone().with_block(net, Ends { host, services }))
}
