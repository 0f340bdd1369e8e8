//! Prefixes that are trusted: how wide they are.

use ipnet::IpNet;

use super::tree::Tree;
use crate::config::findings::{Fault, Findings, Span};
use crate::config::written::Written;

/// A shorter prefix than these is rarely meant.
const WIDE_IPV4: u8 = 16;
const WIDE_IPV6: u8 = 48;

/// The trusted prefixes, for the checks of each service.
pub(super) fn check(findings: &mut Findings<'_>, written: &Written) -> Tree<Span> {
    let tree = Tree::new(written.trusted.iter().map(|net| (*net.get_ref(), net.span())));
    for (node, around) in tree.iter() {
        if let Some(around) = around {
            let place = findings.place(&around.value);
            let fault = Fault::about(
                node.net.to_string(),
                format!("is trusted already, within {} ({place})", around.net),
            );
            findings.warn(&node.value, fault.help("one of the two is enough"));
        } else if is_wide(&node.net) {
            let fault = Fault::about(
                node.net.to_string(),
                "a very wide prefix to trust: nobody in it is ever refused, limited or blocked",
            );
            findings.warn(&node.value, fault.help("trust single hosts; put clients into allow"));
        }
    }
    tree
}

fn is_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < WIDE_IPV4,
        IpNet::V6(net) => net.prefix_len() < WIDE_IPV6,
    }
}
