//! The connections of clients: who has how many, and that the kernel counts them right.
//!
//! | module | what it does |
//! | --- | --- |
//! | `reconcile` | holds the count in the kernel against the sockets that exist |
//! | `shown` | who has which connections, as `guard connections` shows it |

mod reconcile;
mod shown;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use guard_common::abi::{ServiceId, SourceKey, Tracked};

use crate::datapath::Maps;
use crate::sockets::{Counted, CountedConnection};

pub use reconcile::{Others, Reconciler, Repair, Room, Seen};
pub use shown::{AddressConnections, SourceConnections, StateConnections, by_source};

/// The connections of all sources to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    /// How many sources they are of.
    pub sources: u64,
}

/// What the guard in the kernel knows of these connections, by the cookies of their sockets.
pub fn counted<'m>(maps: &'m Maps, tracked: impl IntoIterator<Item = (u64, Tracked)>) -> Counted<'m> {
    let of = |(cookie, Tracked { flow, namespace, .. }): (u64, Tracked)| {
        let client = SocketAddr::new(flow.address().into(), flow.port());
        (cookie, CountedConnection { client, namespace: namespace.into() })
    };
    let connections = tracked.into_iter().map(of).collect();
    Counted { came_through: Box::new(maps.came_through()), connections }
}

/// What each service has open; a service without connections is left out.
pub fn totals(counts: impl IntoIterator<Item = (SourceKey, u64)>) -> BTreeMap<ServiceId, Totals> {
    let mut by_service: BTreeMap<ServiceId, Totals> = BTreeMap::new();
    for (source, open) in counts.into_iter().filter(|(_, open)| *open != 0) {
        let of_service = by_service.entry(source.service()).or_default();
        of_service.connections += open;
        of_service.sources += 1;
    }
    by_service
}

#[cfg(test)]
mod tests {
    use guard_common::Address;
    use guard_common::abi::Service;

    use super::*;

    #[test]
    fn totals_are_of_those_that_have_something_open() {
        let source = |service, last| {
            let service = ServiceId::new(service);
            SourceKey::new(service, &Service::new(false, 32, 64), Address::v4([10, 0, 0, last]))
        };
        let counts =
            [(source(1, 1), 3), (source(1, 2), 4), (source(2, 1), 1), (source(1, 3), 0), (source(3, 1), 0)];
        let expected = [
            (ServiceId::new(1), Totals { connections: 7, sources: 2 }),
            (ServiceId::new(2), Totals { connections: 1, sources: 1 }),
        ];
        assert_eq!(totals(counts), BTreeMap::from(expected));
    }
}
