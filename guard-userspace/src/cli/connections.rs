use std::cmp::Reverse;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Global;
use super::output::{print, print_json, table};
use crate::connections::{AddressConnections, SourceConnections, StateConnections};
use crate::control::path;
use crate::sockets::{KnownBy, State};

/// So many addresses of a source are printed.
const MOST_ADDRESSES: usize = 10;

/// Show who has how many connections open on the guarded ports, the one with most first
#[derive(Args, Debug)]
#[command(after_help = "\
The list covers all network namespaces of this host, containers included.

Columns:
  established   open: they count for max_connections
  half-open     handshakes without an end; their addresses may be forged
  by peer       closed by the client, not by the server (a leaking server
                has many)
  closing       closed by the server, not confirmed by the client
  oldest        since when the agent has seen the oldest connection
  silent        for how long clients have sent nothing, from the least to the
                most; a vanished client is silent while the server sends

A source that is wider than one address shows its addresses below it: the ten
with most connections (with --json: a hundred). Lines below the table name
connections that conntrack has forgotten.

Examples:
  guard connections
  guard connections --top 10
  guard connections --state closed_by_peer
  guard connections --service vllm --json | jq '.[0].source'")]
pub(super) struct ListConnections {
    /// Only this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only connections in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    state: Vec<StateName>,
    /// At most so many sources
    #[arg(long, value_name = "N")]
    top: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum StateName {
    HalfOpen,
    Established,
    ClosedByPeer,
    Closing,
}

impl From<StateName> for State {
    fn from(name: StateName) -> Self {
        match name {
            StateName::HalfOpen => Self::HalfOpen,
            StateName::Established => Self::Established,
            StateName::ClosedByPeer => Self::ClosedByPeer,
            StateName::Closing => Self::Closing,
        }
    }
}

impl ListConnections {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let mut connections: Vec<SourceConnections> = global.client().get(path::CONNECTIONS)?;
        connections.retain(|of| self.service.as_ref().is_none_or(|service| *service == of.service));
        if !self.state.is_empty() {
            let states: Vec<State> = self.state.iter().map(|name| State::from(*name)).collect();
            keep_states(&mut connections, &states);
        }
        connections.truncate(self.top.unwrap_or(usize::MAX));
        if global.json {
            print_json(&connections)?;
        } else if connections.is_empty() {
            print(if self.state.is_empty() {
                "nobody is connected\n"
            } else {
                "no connection is in this state\n"
            })?;
        } else {
            print(&render(&connections))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Leaves only what is in one of these states; the count in the kernel knows none.
fn keep_states(connections: &mut Vec<SourceConnections>, states: &[State]) {
    let keep = |of: &mut Vec<StateConnections>| {
        of.retain(|of| states.contains(&of.state));
        let open = of.iter().filter(|of| of.state != State::HalfOpen);
        (open.map(|of| of.connections).sum(), in_state(of, State::HalfOpen))
    };
    for of in &mut *connections {
        (of.established, of.half_open) = keep(&mut of.states);
        for of in &mut of.addresses {
            (of.established, of.half_open) = keep(&mut of.states);
        }
        of.addresses.retain(|of| !of.states.is_empty());
        of.addresses.sort_by_key(|of| Reverse(of.established + of.half_open));
    }
    connections.retain(|of| !of.states.is_empty());
    connections.sort_by_key(|of| Reverse(of.established + of.half_open));
}

fn in_state(states: &[StateConnections], state: State) -> u64 {
    states.iter().filter(|of| of.state == state).map(|of| of.connections).sum()
}

fn render(connections: &[SourceConnections]) -> String {
    let heading = ["source", "service", "established", "half-open", "by peer", "closing", "oldest", "silent"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let mut forgotten = String::new();
    for of in connections {
        let SourceConnections { service, established, half_open, states, addresses, more_addresses, .. } = of;
        let source = named(of);
        let row = |name: String, service: &str, open: (u64, u64), states: &[StateConnections]| {
            vec![
                name,
                service.to_owned(),
                open.0.to_string(),
                open.1.to_string(),
                in_state(states, State::ClosedByPeer).to_string(),
                in_state(states, State::Closing).to_string(),
                time(states.iter().filter_map(|of| of.oldest_seconds).max()),
                silence(states),
            ]
        };
        rows.push(row(source.clone(), service, (*established, *half_open), states));
        for AddressConnections { address, established, half_open, states } in
            addresses.iter().take(MOST_ADDRESSES)
        {
            rows.push(row(format!("  {address}"), service, (*established, *half_open), states));
        }
        let more = more_addresses + addresses.len().saturating_sub(MOST_ADDRESSES) as u64;
        if more > 0 {
            rows.push(vec![format!("  and {more} more addresses")]);
        }
        for (known_by, how) in [
            (KnownBy::EarlierLook, "guard knew of them before"),
            (KnownBy::Count, "guard goes by what the kernel counts"),
        ] {
            if let Some(count) = of.known_by.get(&known_by) {
                let _ = writeln!(
                    forgotten,
                    "{count} connections of {source} to {service}: conntrack has forgotten them, {how}"
                );
            }
        }
    }
    table(&rows) + &forgotten
}

/// A source that is one address without the length of its prefix.
fn named(of: &SourceConnections) -> String {
    let is_one = of.source.prefix_len() == of.source.max_prefix_len();
    if is_one { of.source.addr().to_string() } else { of.source.to_string() }
}

fn silence(states: &[StateConnections]) -> String {
    let least = states.iter().filter_map(|of| of.silent_least_seconds).min();
    let most = states.iter().filter_map(|of| of.silent_most_seconds).max();
    if least == most { time(least) } else { format!("{} to {}", time(least), time(most)) }
}

/// In the two largest units.
fn time(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else { return "-".into() };
    let unit = match seconds {
        0..3600 => 1,
        3600..86_400 => 60,
        _ => 3600,
    };
    let time = humantime::format_duration(Duration::from_secs(seconds - seconds % unit)).to_string();
    time.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use super::*;

    fn states(states: &[(State, u64, u64, u64)]) -> SourceConnections {
        let of_state = |(state, connections, least, most): &(State, u64, u64, u64)| StateConnections {
            state: *state,
            connections: *connections,
            oldest_seconds: Some(*most),
            silent_least_seconds: Some(*least),
            silent_most_seconds: Some(*most),
        };
        let states = states.iter().map(of_state).collect();
        let (source, service) = ("10.0.0.9/32".parse().unwrap(), "web".to_owned());
        let (known_by, addresses, more_addresses) = (BTreeMap::new(), Vec::new(), 0);
        let (established, half_open) = (7, 1);
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

    #[test]
    fn addresses_stand_below_their_source_and_what_is_forgotten_below_the_table() {
        let mut of = states(&[(State::Established, 4, 0, 9)]);
        let address = |host| AddressConnections {
            address: IpAddr::from([10, 0, 0, host]),
            established: 4,
            half_open: 0,
            states: of.states.clone(),
        };
        of.addresses = (1..=12).map(address).collect();
        (of.source, of.more_addresses) = ("10.0.0.0/24".parse().unwrap(), 5);
        of.known_by = BTreeMap::from([(KnownBy::Socket, 1), (KnownBy::EarlierLook, 2), (KnownBy::Count, 3)]);
        let text = render(&[of.clone()]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].starts_with("    10.0.0.1 ") && lines[12] == "    and 7 more addresses", "{text}");
        assert!(
            lines[13].starts_with("2 connections of 10.0.0.0/24 to web: ") && lines[14].starts_with('3'),
            "{text}"
        );
        let mut closed = vec![of];
        keep_states(&mut closed, &[State::Established]);
        assert_eq!(closed[0].addresses.len(), 12);
        keep_states(&mut closed, &[State::Closing]);
        assert_eq!(closed, []);
    }

    #[test]
    fn a_filter_leaves_what_is_in_the_state_and_nobody_without() {
        let mut connections = vec![
            states(&[(State::Established, 4, 0, 9)]),
            states(&[(State::HalfOpen, 1, 0, 0), (State::ClosedByPeer, 3, 70, 4000)]),
        ];
        let all = render(&connections);
        let leaks = all.lines().nth(2).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(leaks, "10.0.0.9 web 7 1 3 0 1h 6m 0s to 1h 6m");
        keep_states(&mut connections, &[State::ClosedByPeer]);
        let [of] = connections.as_slice() else { panic!("{connections:?}") };
        assert_eq!((of.established, of.half_open, of.states.len()), (3, 0, 1));
    }

    #[test]
    fn times_are_short() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (4000, "1h 6m"), (90_000, "1day 1h")]
        {
            assert_eq!(time(Some(seconds)), expected);
        }
        assert_eq!(time(None), "-");
    }
}
