//! Enforce and monitor.

use guard_common::Action;
use guard_common::parse::Kind;
use guard_userspace::config::ServiceMode;

use crate::moment::{Moment, Seen};

/// The same reason, the same service, the same state of the limiter behind it.
pub fn monitor_equals_enforce_but_for_the_action(moment: &Moment<'_>) {
    let (enforced, monitored) = (all(moment, ServiceMode::Enforce), all(moment, ServiceMode::Monitor));
    for other in [&enforced, &monitored] {
        let same = |seen: &Seen| (seen.verdict.reason, seen.verdict.service, seen.meters.clone());
        assert_eq!(same(other), same(&moment.seen), "{moment}");
    }
    // What was done to its first fragment is done to a later one, whatever the mode is meanwhile.
    if moment.seen.kind == Ok(Kind::Fragment) {
        return;
    }
    let drops = enforced.verdict.reason.drops();
    assert_eq!(enforced.verdict.action, if drops { Action::Drop } else { Action::Pass }, "{moment}");
    // A block of a whole host is nothing that a service could only watch.
    let expected = match (drops, moment.is_host_blocked()) {
        (false, _) => Action::Pass,
        (true, true) => Action::Drop,
        (true, false) => Action::WouldDrop,
    };
    assert_eq!(monitored.verdict.action, expected, "{moment}");
}

/// Each service by its own mode; what is of no service is dropped where any is enforced, and all that a block of the host names.
pub fn the_action_is_that_of_the_reason_and_the_mode(moment: &Moment<'_>) {
    let verdict = moment.seen.verdict;
    // A block may have ended since its first fragment was dropped for it.
    if moment.seen.kind == Ok(Kind::Fragment) && verdict.action == Action::Drop {
        return;
    }
    let services = &moment.world.policy.services;
    let enforced = match moment.world.service(verdict.service) {
        _ if moment.is_host_blocked() => true,
        Some(service) => service.mode == ServiceMode::Enforce,
        None => services.iter().any(|service| service.mode == ServiceMode::Enforce),
    };
    let expected = match (verdict.reason.drops(), enforced) {
        (false, _) => Action::Pass,
        (true, true) => Action::Drop,
        (true, false) => Action::WouldDrop,
    };
    assert_eq!(verdict.action, expected, "{moment}");
}

fn all(moment: &Moment<'_>, mode: ServiceMode) -> Seen {
    let mut world = moment.world.clone();
    world.policy.services.iter_mut().for_each(|service| service.mode = mode);
    moment.at(&world)
}
