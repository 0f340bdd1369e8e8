//! The connections of clients: who has how many, and that the kernel counts them right.
//!
//! | module | what it does |
//! | --- | --- |
//! | `reconcile` | holds the count in the kernel against the sockets that exist |

mod reconcile;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use guard_common::abi::{ServiceId, SourceKey, Tracked};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::datapath::{Error, Maps};
use crate::sockets::{Connection, Counted, CountedConnection, Listing, State};

pub use reconcile::{Others, Reconciler, Repair, Room, Seen};

/// The connections of one source to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceConnections {
    /// An address, or the prefix that counts as one source.
    pub source: IpNet,
    pub service: String,
    /// Connections that take one of the source's places, as the kernel counts them; see [`guard_common::abi::Marks::counts`].
    pub established: u64,
    /// Handshakes that were begun and not finished.
    pub half_open: u64,
    /// The same by their sockets, as these are now.
    #[serde(default)]
    pub states: Vec<StateConnections>,
}

/// The connections of one source to one service that are in one state. Times are as of now, in whole seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateConnections {
    pub state: State,
    pub connections: u64,
    /// For how long the oldest has been seen: at most since the agent began.
    pub oldest_seconds: Option<u64>,
    /// For how long the client has sent nothing, not even an acknowledgement: of the connection where that is shortest.
    pub silent_least_seconds: Option<u64>,
    /// Of the connection where it is longest.
    pub silent_most_seconds: Option<u64>,
}

impl StateConnections {
    const fn none(state: State) -> Self {
        let (oldest_seconds, silent_least_seconds, silent_most_seconds) = (None, None, None);
        Self { state, connections: 0, oldest_seconds, silent_least_seconds, silent_most_seconds }
    }

    fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
        let (seen, silent) = (seconds(connection.seen), seconds(connection.silent));
        self.oldest_seconds = self.oldest_seconds.max(seen);
        self.silent_most_seconds = self.silent_most_seconds.max(silent);
        self.silent_least_seconds = [self.silent_least_seconds, silent].into_iter().flatten().min();
    }
}

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

/// What each source has open, the one with most first: how many by the kernel's count, half-open ones and states by the sockets.
///
/// # Errors
/// When the maps cannot be read.
pub fn by_source(maps: &Maps, sockets: &Listing) -> Result<Vec<SourceConnections>, Error> {
    let mut of_sources: BTreeMap<SourceKey, (u64, BTreeMap<State, StateConnections>)> = BTreeMap::new();
    for (source, established) in maps.connections()?.into_iter().filter(|(_, established)| *established != 0)
    {
        of_sources.entry(source).or_default().0 = established;
    }
    let counted: HashMap<u64, Tracked> = maps.tracked()?.into_iter().collect();
    for connection in &sockets.connections {
        let source = match counted.get(&connection.cookie) {
            Some(counted) => Some(counted.source),
            // What is open and not counted did not come through guard, or is counted soon.
            None if connection.state == State::HalfOpen => {
                maps.source_of(connection.client.ip(), connection.service_port)
            }
            None => None,
        };
        if let Some(source) = source {
            let state = connection.state;
            let (_, states) = of_sources.entry(source).or_default();
            states.entry(state).or_insert(StateConnections::none(state)).add(connection);
        }
    }
    let names: BTreeMap<ServiceId, String> =
        maps.service_names()?.into_iter().map(|(name, id)| (id, name)).collect();
    let of_source = |(source, (established, states)): (SourceKey, (u64, BTreeMap<_, StateConnections>))| {
        let half_open = states.get(&State::HalfOpen).map_or(0, |half_open| half_open.connections);
        let service = names.get(&source.service()).cloned().unwrap_or_default();
        let states = states.into_values().collect();
        SourceConnections { source: maps.source_net(&source), service, established, half_open, states }
    };
    let mut connections: Vec<_> = of_sources.into_iter().map(of_source).collect();
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
