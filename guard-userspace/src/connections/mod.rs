//! The connections of clients: who has how many, and that the kernel counts them right.
//!
//! | module | what it does |
//! | --- | --- |
//! | `reconcile` | holds the count in the kernel against the sockets that exist |

mod reconcile;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use guard_common::abi::{ServiceId, SourceKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::datapath::{Error, Maps};
use crate::sockets::{Listing, State};

pub use reconcile::{Others, Reconciler, Repair, Room, Seen};

/// The connections of one source to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceConnections {
    /// An address, or the prefix that counts as one source.
    pub source: IpNet,
    pub service: String,
    /// Connections that the server holds, until it lets go of them.
    pub established: u64,
    /// Handshakes that were begun and not finished.
    pub half_open: u64,
}

/// The connections of all sources to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    /// How many sources they are of.
    pub sources: u64,
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

/// What each source has open, the one with most first: established by the kernel's count, half-open by the sockets.
///
/// # Errors
/// When the maps cannot be read.
pub fn by_source(maps: &Maps, sockets: &Listing) -> Result<Vec<SourceConnections>, Error> {
    let mut counts: BTreeMap<SourceKey, (u64, u64)> = BTreeMap::new();
    for (source, established) in maps.connections()?.into_iter().filter(|(_, established)| *established != 0)
    {
        counts.entry(source).or_default().0 = established;
    }
    let half_open = sockets.connections.iter().filter(|connection| connection.state == State::HalfOpen);
    for connection in half_open {
        if let Some(source) = maps.source_of(connection.client.ip(), connection.service_port) {
            counts.entry(source).or_default().1 += 1;
        }
    }
    let names: BTreeMap<ServiceId, String> =
        maps.service_names()?.into_iter().map(|(name, id)| (id, name)).collect();
    let of_source = |(source, (established, half_open)): (SourceKey, (u64, u64))| SourceConnections {
        source: maps.source_net(&source),
        service: names.get(&source.service()).cloned().unwrap_or_default(),
        established,
        half_open,
    };
    let mut connections: Vec<_> = counts.into_iter().map(of_source).collect();
    connections.sort_by_key(|of| Reverse(of.established + of.half_open));
    Ok(connections)
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
