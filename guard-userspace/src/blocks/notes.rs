//! What the audit log says of blocks. A list is one entry with its length and how it begins, however long it is.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Block, now};
use crate::ledger::{Action, Event};

/// How many networks of a list are named.
const FIRST: usize = 10;

/// Something that was done just now.
pub fn event(action: Action, net: Option<IpNet>, by: &str, details: Option<Value>) -> Event {
    Event { id: None, at: now(), action, net, by: by.into(), outcome: "done".into(), details }
}

/// These blocks, which were asked for at once, so that one speaks for all.
pub(super) fn blocked(blocks: &[Block]) -> Option<Event> {
    let first = blocks.first()?;
    let details = json!({
        "scope": first.scope, "origin": first.origin, "reason": first.reason, "until": first.until, "evidence": first.evidence,
    });
    Some(about(Action::Block, blocks.iter().map(|block| block.net), &first.by, details))
}

pub(super) fn unblocked(mut nets: Vec<IpNet>, by: &str) -> Option<Event> {
    nets.sort_unstable();
    (!nets.is_empty()).then(|| about(Action::Unblock, nets.into_iter(), by, json!({})))
}

pub(super) fn expired(blocks: &[Block]) -> Option<Event> {
    (!blocks.is_empty())
        .then(|| about(Action::Expire, blocks.iter().map(|block| block.net), "guard", json!({})))
}

/// What another program had changed in the kernel's tables, and is as it was.
pub(super) fn mended(mut nets: Vec<IpNet>) -> Event {
    nets.sort_unstable();
    let details = json!({ "reason": "another program had changed the kernel's tables of blocks" });
    about(Action::Mend, nets.into_iter(), "guard", details)
}

fn about(action: Action, nets: impl ExactSizeIterator<Item = IpNet>, by: &str, mut details: Value) -> Event {
    let count = nets.len();
    let first: Vec<IpNet> = nets.take(FIRST).collect();
    if let ([net], 1) = (first.as_slice(), count) {
        let details = details.as_object().is_some_and(|details| !details.is_empty()).then_some(details);
        return event(action, Some(*net), by, details);
    }
    details["count"] = count.into();
    details["first"] = json!(first);
    event(action, None, by, Some(details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_event_that_says_how_it_begins() {
        let nets = |count: u8| {
            (0..count)
                .map(|number| IpNet::from(std::net::IpAddr::from([10, 0, 0, number])))
                .collect::<Vec<_>>()
        };
        assert_eq!(unblocked(nets(0), "a test"), None);
        let one = unblocked(nets(1), "a test").unwrap();
        assert_eq!((one.net, one.details), (Some("10.0.0.0/32".parse().unwrap()), None));
        let many = unblocked(nets(200), "a test").unwrap();
        let details = many.details.clone().unwrap();
        assert_eq!(
            (many.net, &details["count"], details["first"].as_array().unwrap().len()),
            (None, &json!(200), FIRST)
        );
        assert!(many.concerns("10.0.0.9".parse().unwrap()) && !many.concerns("10.0.0.10".parse().unwrap()));
    }
}
