//! The interfaces that packets can reach this host by without a verdict.

use super::attach::Attached;
use crate::agent::status::UnguardedStatus;
use crate::network::{Link, Network};

/// The interfaces that are up and have an address, and have no program, each with the reason.
pub(super) fn unguarded(attached: &Attached, network: &Network) -> Vec<UnguardedStatus> {
    let is_open = |link: &&Link| {
        link.is_up
            && !link.is_loopback
            && network.addressed.contains(&link.index)
            && !attached.is_guarded(link.index)
    };
    let status = |link: &Link| UnguardedStatus {
        name: link.name.clone(),
        index: link.index,
        why: why_unguarded(link.index, attached, network),
    };
    network.links.iter().filter(is_open).map(status).collect()
}

fn why_unguarded(index: u32, attached: &Attached, network: &Network) -> String {
    let name = network.name(index);
    if let Some(why) = attached.refusal(name) {
        return why.clone();
    }
    let names =
        |indices: &[u32]| indices.iter().map(|index| network.name(*index)).collect::<Vec<_>>().join(", ");
    let (below, open): (Vec<u32>, Vec<u32>) = network.lowers(index).into_iter().partition(|lower| {
        attached.is_guarded(*lower)
            || network.all_below(*lower).iter().any(|index| attached.is_guarded(*index))
    });
    let controller =
        network.link(index).and_then(|link| link.controller).filter(|above| attached.is_guarded(*above));
    match (below.is_empty(), open.is_empty(), controller) {
        (false, true, _) => format!("its packets come by {}, where they are judged", names(&below)),
        (false, false, _) => {
            format!("only what comes by {} is judged; what comes by {} is not", names(&below), names(&open))
        }
        (true, _, Some(above)) => {
            format!("it is a part of {}, where its packets for this host are judged", network.name(above))
        }
        (true, _, None) => "the policy does not name it".into(),
    }
}
