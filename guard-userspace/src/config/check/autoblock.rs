//! What the limits let in is no offence: `[autoblock] connections` lies above each `max_connections` that it covers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::tree::Tree;
use crate::config::findings::{Fault, Findings, Span};
use crate::config::written::{Written, WrittenLimits};

/// Refuses a threshold that blocks a source for connections that its limits let it have.
pub(super) fn check(findings: &mut Findings<'_>, written: &Written, trusted: &Tree<Span>) {
    let autoblock = &written.rest.autoblock;
    let (true, Some(threshold)) = (autoblock.enabled, autoblock.connections) else { return };
    let too_many =
        |named: &&WrittenLimits| named.limits.max_connections.is_some_and(|most| most >= threshold);
    let by_name: BTreeMap<&str, &WrittenLimits> =
        written.limits.iter().filter(too_many).map(|named| (named.name.get_ref().as_str(), named)).collect();
    let never = Tree::new(autoblock.never.iter().map(|prefix| (prefix.net, ())));
    let spared =
        |net: IpNet| never.containing(net).next().is_some() || trusted.containing(net).next().is_some();
    let mut reported = BTreeSet::new();
    let mut refuse = |name: &str, remedy: &str| {
        let Some(named) = by_name.get(name).filter(|_| reported.insert(name.to_owned())) else { return };
        let most = named.limits.max_connections.unwrap_or_default();
        let place = named.max_connections.as_ref().map(|span| findings.place(span)).unwrap_or_default();
        let fault = Fault::new(format!(
            "connections = {threshold} blocks sources that the limits {name:?} let have {most} connections ({place})"
        ));
        let help = format!("raise connections above {most}, lower max_connections, or {remedy}");
        let span = written.autoblock_connections.clone().unwrap_or_default();
        findings.error(&span, fault.help(help));
    };
    for service in &written.services {
        for source in service.sources.iter().filter(|source| !spared(*source.prefix.get_ref())) {
            let remedy = format!("add {} to never", source.prefix.get_ref());
            refuse(source.limits.get_ref(), &remedy);
        }
        if let Some(limits) =
            service.limits.as_ref().filter(|_| !service.allow.iter().all(|net| spared(*net.get_ref())))
        {
            refuse(limits.get_ref(), "leave connections out");
        }
    }
}
