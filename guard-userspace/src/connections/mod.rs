//! The connections of clients: who has how many, and that the kernel counts them right.
//!
//! | module | what it does |
//! | --- | --- |
//! | `reconcile` | holds the count in the kernel against the sockets that exist |

mod reconcile;

use std::collections::BTreeMap;

use guard_common::abi::ServiceId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::datapath::{Error, Maps};

pub use reconcile::{Reconciler, Repair, Seen};

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

/// What each source has open by the kernel's count, the one with most first.
///
/// # Errors
/// When the maps cannot be read.
pub fn by_source(maps: &Maps) -> Result<Vec<SourceConnections>, Error> {
    let names: BTreeMap<ServiceId, String> =
        maps.service_names()?.into_iter().map(|(name, id)| (id, name)).collect();
    let mut connections = Vec::new();
    for (source, established) in maps.connections()? {
        if established == 0 {
            continue;
        }
        let service = names.get(&source.service()).cloned().unwrap_or_default();
        let source = maps.source_net(&source);
        connections.push(SourceConnections { source, service, established, half_open: 0 });
    }
    sort(&mut connections);
    Ok(connections)
}

/// The one with most first.
pub fn sort(connections: &mut [SourceConnections]) {
    connections.sort_by(|one, other| {
        let total = |of: &SourceConnections| of.established + of.half_open;
        total(other).cmp(&total(one)).then_with(|| {
            (one.source, &one.service).cmp(&(other.source, &other.service))
        })
    });
}
