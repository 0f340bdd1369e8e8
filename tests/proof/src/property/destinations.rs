//! What a service is reached at.

use std::net::IpAddr;

use guard_common::Reason;
use guard_common::abi::ServiceId;
use guard_common::parse::destination;
use guard_userspace::config::Prefix;
use ipnet::IpNet;

use super::blocks::around;
use crate::moment::{Moment, Seen};

/// With a destination around the packet's own all is as without one; with another, the packet is for no service and takes nothing from a
/// limit.
pub fn a_service_is_what_is_for_its_destinations(moment: &Moment<'_>) {
    let (Some((index, _)), Some(to)) = (moment.guarded(), destination(moment.frame, &moment.seen.headers))
    else {
        return;
    };
    let to = IpAddr::from(to);
    let reached_at = |net: IpNet| -> Seen {
        let mut world = moment.world.clone();
        if let Some(service) = world.policy.services.get_mut(index) {
            service.destinations = vec![Prefix { net, line: None }];
        }
        moment.at(&world)
    };
    for net in around(to) {
        assert_eq!(reached_at(net), moment.seen, "reached at {net}\n{moment}");
    }
    let beside = match to {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ 1).into()),
    };
    let elsewhere = reached_at(beside.into());
    let expected = if moment.is_host_blocked() { Reason::Blocked } else { Reason::Unguarded };
    assert_eq!(elsewhere.verdict.reason, expected, "reached at {beside}\n{moment}");
    assert_eq!(elsewhere.verdict.service, ServiceId::NONE, "reached at {beside}\n{moment}");
    assert_eq!(elsewhere.meters, moment.meters, "reached at {beside}\n{moment}");
}
