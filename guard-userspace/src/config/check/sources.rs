//! Services whose clients all count as one source.

use ipnet::IpNet;

use crate::config::findings::{Fault, Findings};
use crate::config::policy::SourceGrouping;
use crate::config::written::WrittenService;

/// Warns where all that a service allows shares one set of limits and one block.
pub(super) fn check(findings: &mut Findings<'_>, service: &WrittenService, grouping: SourceGrouping) {
    let [first, rest @ ..] = service.allow.as_slice() else { return };
    let source = source_of(*first.get_ref(), grouping);
    let is_one = source.is_some() && rest.iter().all(|net| source_of(*net.get_ref(), grouping) == source);
    let is_one_address = rest.is_empty() && first.get_ref().prefix_len() == first.get_ref().max_prefix_len();
    let Some(source) = source.filter(|_| is_one && !is_one_address) else { return };
    let key = if source.addr().is_ipv4() { "ipv4_prefix" } else { "ipv6_prefix" };
    let fault = Fault::new(format!(
        "all clients of {} are one source, {source}: they share its limits and its blocks",
        service.label()
    ));
    let help = format!(
        "write {key} = {} in [source] where each address is a client of its own",
        source.max_prefix_len()
    );
    findings.warn(&first.span(), fault.help(help));
}

/// The source that a prefix lies in; none if it has several.
fn source_of(net: IpNet, grouping: SourceGrouping) -> Option<IpNet> {
    let length = if net.addr().is_ipv4() { grouping.ipv4_prefix } else { grouping.ipv6_prefix };
    let is_within = net.prefix_len() >= length && length < net.max_prefix_len();
    is_within.then(|| IpNet::new(net.addr(), length).ok()).flatten().map(|net| net.trunc())
}
