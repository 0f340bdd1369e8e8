//! The lists of one service against each other and against what is trusted.

use ipnet::IpNet;

use super::tree::{Node, Tree};
use crate::config::findings::{Fault, Findings, Span};
use crate::config::written::{WrittenService, WrittenSource};

/// What a list says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Allow,
    Deny,
}

type Lists = Tree<(List, Span)>;

pub(super) fn check(findings: &mut Findings<'_>, service: &WrittenService, trusted: &Tree<Span>) {
    let mut limited = Limited::default();
    let allow = service.allow.iter().map(|net| (*net.get_ref(), (List::Allow, net.span())));
    let deny = service.deny.iter().map(|net| (*net.get_ref(), (List::Deny, net.span())));
    let lists = Tree::new(allow.chain(deny));
    for (node, around) in lists.iter() {
        match node.value.0 {
            List::Allow => check_allow(findings, &mut limited, node, around),
            List::Deny => check_deny(findings, &mut limited, &lists, node, around),
        }
    }
    for node in lists.iter().map(|(node, _)| node).filter(|node| node.value.0 == List::Deny) {
        deny_of_trusted(findings, trusted, node);
    }
    check_sources(findings, &mut limited, &service.sources, &lists, trusted);
    limited.finish(findings, service);
    warn_of_unlimited(findings, service);
    check_destinations(findings, service);
}

fn check_allow(
    findings: &mut Findings<'_>,
    limited: &mut Limited,
    node: &Node<(List, Span)>,
    around: Option<&Node<(List, Span)>>,
) {
    let Some(around) = around.filter(|around| around.value.0 == List::Allow) else { return };
    let place = findings.place(&around.value.1);
    let fault =
        Fault::about(node.net.to_string(), format!("is allowed already, within {} ({place})", around.net));
    limited.warn(
        findings,
        &node.value.1,
        fault.help(
            "one of the two is enough; other limits for a part of the allowed go into [[service.sources]]",
        ),
    );
}

fn check_deny(
    findings: &mut Findings<'_>,
    limited: &mut Limited,
    lists: &Lists,
    node: &Node<(List, Span)>,
    around: Option<&Node<(List, Span)>>,
) {
    let subject = node.net.to_string();
    let span = &node.value.1;
    // Equal prefixes: `allow` was put first, so it is the one around.
    if let Some(same) = around.filter(|around| around.net == node.net && around.value.0 == List::Allow) {
        let place = findings.place(&same.value.1);
        let fault = Fault::about(subject, format!("stands in allow ({place}) and in deny"));
        findings.error(span, fault.help("remove it from one of the two"));
        return;
    }
    let fault = match around.map(|around| around.value.0) {
        Some(List::Allow) => return,
        Some(List::Deny) => {
            let around = around.map(|around| format!("{} ({})", around.net, findings.place(&around.value.1)));
            Fault::about(subject, format!("is denied already, within {}", around.unwrap_or_default()))
                .help("one of the two is enough")
        }
        None => match lists.within(node.net).find(|inner| inner.value.0 == List::Allow) {
            Some(allow) => {
                let place = findings.place(&allow.value.1);
                let message = format!("does not keep {} out ({place}): the longest prefix wins", allow.net);
                Fault::about(subject, message).help(
                    "remove the one from allow, or this from deny: who is not allowed is dropped anyway",
                )
            }
            None => Fault::about(
                subject,
                "denies nothing that allow lets in: who is not allowed is dropped anyway",
            )
            .help("remove it, or check the prefix"),
        },
    };
    limited.warn(findings, span, fault);
}

fn deny_of_trusted(findings: &mut Findings<'_>, trusted: &Tree<Span>, node: &Node<(List, Span)>) {
    let Some(around) = trusted.containing(node.net).next() else { return };
    let place = findings.place(&around.value);
    let fault = Fault::about(
        node.net.to_string(),
        format!("is within the trusted prefix {} ({place}), which is never refused", around.net),
    );
    findings.error(&node.value.1, fault.help("remove it from deny, or trust less"));
}

fn check_sources(
    findings: &mut Findings<'_>,
    limited: &mut Limited,
    sources: &[WrittenSource],
    lists: &Lists,
    trusted: &Tree<Span>,
) {
    let own = Tree::new(sources.iter().map(|source| (*source.prefix.get_ref(), source.prefix.span())));
    for (node, around) in own.iter() {
        let subject = node.net.to_string();
        if let Some(same) = around.filter(|around| around.net == node.net) {
            let place = findings.place(&same.value);
            let fault = Fault::about(subject, format!("has an entry in sources already ({place})"));
            findings.error(&node.value, fault.help("keep one of the two"));
        } else if let Some(around) = trusted.containing(node.net).next() {
            let fault = Fault::about(
                subject,
                format!("is within the trusted prefix {} and never limited", around.net),
            );
            limited.warn(findings, &node.value, fault.help("remove the entry, or trust less"));
        } else {
            reach(findings, limited, lists, node.net, &node.value);
        }
    }
}

/// Whether an entry of `sources` has anybody to limit.
fn reach(findings: &mut Findings<'_>, limited: &mut Limited, lists: &Lists, net: IpNet, span: &Span) {
    let mut containing = lists.containing(net).map(|node| node.value.0).peekable();
    let innermost = containing.peek().copied();
    if innermost == Some(List::Allow) || lists.within(net).any(|node| node.value.0 == List::Allow) {
        return;
    }
    if containing.any(|list| list == List::Allow) {
        let fault = Fault::about(net.to_string(), "is denied, so there is nobody to limit");
        limited.warn(findings, span, fault.help("remove the entry, or the prefix from deny"));
    } else {
        let fault = Fault::about(net.to_string(), "is not allowed, so there is nobody to limit");
        findings.error(span, fault.help("an entry of sources only names limits: add the prefix to allow"));
    }
}

fn warn_of_unlimited(findings: &mut Findings<'_>, service: &WrittenService) {
    let everyone = service.allow.iter().find(|net| net.get_ref().prefix_len() == 0);
    if let (Some(everyone), None) = (everyone, &service.limits) {
        let fault = Fault::new(format!("{} lets everyone in, without limits", service.label()));
        findings.warn(&everyone.span(), fault.help("add limits = \"client\" and a table [limits.client]"));
    }
}

/// Destinations that are named twice, and the family that none is named of: the port is open there to everyone.
fn check_destinations(findings: &mut Findings<'_>, service: &WrittenService) {
    let named = Tree::new(service.destinations.iter().map(|net| (*net.get_ref(), net.span())));
    let mut limited = Limited::default();
    for (node, around) in named.iter() {
        let Some(around) = around else { continue };
        let place = findings.place(&around.value);
        let fault = Fault::about(
            node.net.to_string(),
            format!("is a destination already, within {} ({place})", around.net),
        );
        limited.warn(findings, &node.value, fault.help("one of the two is enough"));
    }
    limited.finish(findings, service);
    let Some(first) = service.destinations.first() else { return };
    let all_v4 = service.destinations.iter().all(|net| net.get_ref().addr().is_ipv4());
    let all_v6 = service.destinations.iter().all(|net| net.get_ref().addr().is_ipv6());
    let (family, example) = match (all_v4, all_v6) {
        (true, false) => ("IPv6", "\"::/0\""),
        (false, true) => ("IPv4", "\"0.0.0.0/0\""),
        _ => return,
    };
    let fault = Fault::new(format!(
        "{} names no destination of {family}: there its ports are open to everyone",
        service.label()
    ));
    findings.warn(
        &first.span(),
        fault.help(format!("add this host's addresses of {family}, or {example} for all of them")),
    );
}

/// Shows the first few warnings of a service: a list of 100,000 prefixes can have as many.
#[derive(Default)]
struct Limited {
    warnings: usize,
}

impl Limited {
    const SHOWN: usize = 10;

    fn warn(&mut self, findings: &mut Findings<'_>, span: &Span, fault: Fault) {
        self.warnings += 1;
        if self.warnings <= Self::SHOWN {
            findings.warn(span, fault);
        }
    }

    fn finish(self, findings: &mut Findings<'_>, service: &WrittenService) {
        let hidden = self.warnings.saturating_sub(Self::SHOWN);
        if hidden > 0 {
            let fault = Fault::new(format!("{} has {hidden} more prefixes without effect", service.label()));
            findings.warn(&service.span, fault);
        }
    }
}
