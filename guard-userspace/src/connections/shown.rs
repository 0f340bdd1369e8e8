//! Who has which connections, as `guard connections` shows it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use guard_common::abi::{ServiceId, SourceKey, Tracked};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::datapath::{Error, Maps};
use crate::sockets::{Connection, KnownBy, Listing, State};

/// So many addresses of one source are shown. A prefix can have as many as the tables have room for connections.
const MOST_ADDRESSES: usize = 100;

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
    /// What tells of how many of these sockets whose they are.
    #[serde(default)]
    pub known_by: BTreeMap<KnownBy, u64>,
    /// The addresses of a source that is wider than one, that with most connections first: 100 at most.
    #[serde(default)]
    pub addresses: Vec<AddressConnections>,
    /// How many more addresses have connections.
    #[serde(default)]
    pub more_addresses: u64,
}

/// The connections of one address of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressConnections {
    pub address: IpAddr,
    /// As in [`SourceConnections`].
    pub established: u64,
    pub half_open: u64,
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

/// What one address has open.
#[derive(Debug, Default)]
struct OfAddress {
    established: u64,
    states: BTreeMap<State, StateConnections>,
}

/// What one source has open.
#[derive(Debug, Default)]
struct OfSource {
    established: u64,
    states: BTreeMap<State, StateConnections>,
    known_by: BTreeMap<KnownBy, u64>,
    by_address: HashMap<IpAddr, OfAddress>,
}

impl OfSource {
    fn add(&mut self, connection: &Connection) {
        let of_address = self.by_address.entry(connection.client.ip()).or_default();
        for states in [&mut self.states, &mut of_address.states] {
            let state = connection.state;
            states.entry(state).or_insert(StateConnections::none(state)).add(connection);
        }
        *self.known_by.entry(connection.known_by).or_default() += 1;
    }

    fn shown(self, source: IpNet, service: String) -> SourceConnections {
        let Self { established, states, known_by, by_address } = self;
        let mut addresses = Vec::new();
        if source.prefix_len() < source.max_prefix_len() {
            addresses.extend(by_address.into_iter().map(|(address, of)| of.shown(address)));
            addresses.sort_by_key(|of| (Reverse(of.established + of.half_open), of.address));
        }
        let more_addresses = addresses.len().saturating_sub(MOST_ADDRESSES) as u64;
        addresses.truncate(MOST_ADDRESSES);
        let (half_open, states) = (half_open(&states), states.into_values().collect());
        SourceConnections {
            source,
            service,
            established,
            half_open,
            states,
            known_by,
            addresses,
            more_addresses,
        }
    }
}

impl OfAddress {
    fn shown(self, address: IpAddr) -> AddressConnections {
        let Self { established, states } = self;
        let (half_open, states) = (half_open(&states), states.into_values().collect());
        AddressConnections { address, established, half_open, states }
    }
}

fn half_open(states: &BTreeMap<State, StateConnections>) -> u64 {
    states.get(&State::HalfOpen).map_or(0, |half_open| half_open.connections)
}

/// What each source has open, the one with most first: how many by the kernel's count, half-open ones and states by the sockets.
///
/// # Errors
/// When the maps cannot be read.
pub fn by_source(maps: &Maps, sockets: &Listing) -> Result<Vec<SourceConnections>, Error> {
    let mut of_sources: BTreeMap<SourceKey, OfSource> = BTreeMap::new();
    for (source, established) in maps.connections()?.into_iter().filter(|(_, established)| *established != 0)
    {
        of_sources.entry(source).or_default().established = established;
    }
    let counted: HashMap<u64, Tracked> = maps.tracked()?.into_iter().collect();
    for Tracked { source, flow, .. } in counted.values().filter(|tracked| tracked.marks.counts()) {
        let of_address = of_sources.entry(*source).or_default().by_address.entry(flow.address().into());
        of_address.or_default().established += 1;
    }
    for connection in &sockets.connections {
        let source = match counted.get(&connection.cookie) {
            Some(counted) => Some(counted.source),
            // What is open and not counted did not come through guard, or is counted soon.
            None if connection.state == State::HalfOpen => {
                maps.source_of(connection.client.ip(), connection.asked.port())
            }
            None => None,
        };
        if let Some(source) = source {
            of_sources.entry(source).or_default().add(connection);
        }
    }
    let names: BTreeMap<ServiceId, String> =
        maps.service_names()?.into_iter().map(|(name, id)| (id, name)).collect();
    let shown = |(source, of): (SourceKey, OfSource)| {
        of.shown(maps.source_net(&source), names.get(&source.service()).cloned().unwrap_or_default())
    };
    let mut connections: Vec<_> = of_sources.into_iter().map(shown).collect();
    connections.sort_by_key(|of| Reverse(of.established + of.half_open));
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(client: &str, state: State, known_by: KnownBy) -> Connection {
        Connection {
            client: client.parse().unwrap(),
            asked: "[fd00::1]:8000".parse().unwrap(),
            local: "[fd00::1]:8000".parse().unwrap(),
            state,
            known_by,
            is_of_host: true,
            namespace: 1,
            cookie: 1,
            silent: None,
            acknowledged: None,
            seen: None,
        }
    }

    #[test]
    fn a_wide_source_shows_its_addresses_and_a_single_one_does_not() {
        use KnownBy::{Count, Socket};
        let of = |net: &str| {
            let mut of = OfSource { established: 2, ..OfSource::default() };
            for (client, state, known_by) in [
                ("[fd00::9]:1", State::Established, Socket),
                ("[fd00::9]:2", State::ClosedByPeer, Count),
                ("[fd00::8]:1", State::HalfOpen, Socket),
            ] {
                of.add(&connection(client, state, known_by));
            }
            for established in [2, 0, 0] {
                of.by_address.entry("fd00::9".parse().unwrap()).or_default().established += established;
            }
            of.shown(net.parse().unwrap(), "web".into())
        };
        let wide = of("fd00::/64");
        assert_eq!(wide.known_by, BTreeMap::from([(Socket, 2), (Count, 1)]));
        let shown =
            |of: &AddressConnections| (of.address.to_string(), of.established, of.half_open, of.states.len());
        let addresses: Vec<_> = wide.addresses.iter().map(shown).collect();
        assert_eq!(addresses, [("fd00::9".into(), 2, 0, 2), ("fd00::8".into(), 0, 1, 1)]);
        assert_eq!(of("fd00::9/128").addresses, []);
    }

    #[test]
    fn very_many_addresses_are_counted_and_not_shown() {
        let mut of = OfSource::default();
        for host in 0..=MOST_ADDRESSES {
            of.add(&connection(&format!("[fd00::{host}]:1"), State::Established, KnownBy::Socket));
        }
        let shown = of.shown("fd00::/64".parse().unwrap(), "web".into());
        assert_eq!((shown.addresses.len(), shown.more_addresses), (MOST_ADDRESSES, 1));
    }
}
