//! Blocks that no command asked for: by a decision of guard, and by an entry in the kernel.

use guard_common::abi;
use ipnet::IpNet;

use super::nested::Ends;
use super::{Block, Clock, Origin, Scope};
use crate::autoblock::Automatic;

/// The blocks that an entry of the kernel stands for, when nothing else is known of it.
pub(super) fn found((net, ends): (IpNet, Ends), clock: &Clock, at: u64) -> Vec<Block> {
    let block = |scope, until: abi::End| Block {
        net,
        scope,
        origin: Origin::Manual,
        reason: Some("found in the kernel".into()),
        evidence: None,
        by: "unknown".into(),
        since: clock.to_day(at),
        until: (until != abi::End::FOREVER).then(|| clock.to_day(until.nanoseconds())),
    };
    let host = ends.host.is_after(|| at).then(|| block(Scope::Host, ends.host));
    let services = (ends.services.is_after(|| at) && ends.services > ends.host)
        .then(|| block(Scope::Services, ends.services));
    host.into_iter().chain(services).collect()
}

/// The block that a decision is.
pub(super) fn automatic_block(automatic: &Automatic, clock: &Clock, at: u64) -> Block {
    let since = clock.to_day(at);
    let Automatic { net, scope, lasts, reason, evidence, strike: _, kill: _ } = automatic;
    Block {
        net: *net,
        scope: *scope,
        origin: Origin::Auto,
        reason: Some(reason.clone()),
        evidence: serde_json::to_value(evidence).ok(),
        by: "guard".into(),
        since,
        until: Some(clock.whole(since.saturating_add(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX)))),
    }
}
