//! Limits that nobody reaches, as autoblock comes first.

use std::collections::BTreeMap;

use ipnet::IpNet;
use toml::Spanned;

use super::tree::Tree;
use crate::config::findings::{Fault, Findings, Span};
use crate::config::written::Written;

/// Warns where a source may have more connections than autoblock lets it have.
pub(super) fn check(findings: &mut Findings<'_>, written: &Written, trusted: &Tree<Span>) {
    let autoblock = &written.rest.autoblock;
    if !autoblock.enabled {
        return;
    }
    let most = |limits: &crate::config::Limits| limits.max_connections;
    let allowed: BTreeMap<&str, u32> = written
        .limits
        .iter()
        .filter_map(|named| Some((named.name.get_ref().as_str(), most(&named.limits)?)))
        .filter(|(_, connections)| *connections > autoblock.connections)
        .collect();
    let never = Tree::new(autoblock.never.iter().map(|prefix| (prefix.net, ())));
    let spared =
        |net: IpNet| never.containing(net).next().is_some() || trusted.containing(net).next().is_some();
    let mut warn = |limits: &Spanned<String>, remedy: &str| {
        let Some(allowed) = allowed.get(limits.get_ref().as_str()) else { return };
        let fault = Fault::new(format!(
            "{:?} allows {allowed} connections, but autoblock blocks a source with more than {}",
            limits.get_ref(),
            autoblock.connections
        ));
        findings.warn(&limits.span(), fault.help(format!("{remedy}, or raise connections in [autoblock]")));
    };
    for service in &written.services {
        if let Some(limits) = &service.limits {
            warn(limits, "lower max_connections");
        }
        for source in service.sources.iter().filter(|source| !spared(*source.prefix.get_ref())) {
            warn(&source.limits, &format!("add {} to never in [autoblock]", source.prefix.get_ref()));
        }
    }
}
