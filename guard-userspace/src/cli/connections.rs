use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Global;
use super::output::{print, print_json, table};
use crate::connections::{SourceConnections, StateConnections};
use crate::control::path;
use crate::sockets::State;

/// Show who has how many connections open on the guarded ports, the one with most first
#[derive(Args, Debug)]
#[command(after_help = "\
The list covers all network namespaces of this host, containers included.

Columns:
  established   open: the server has not closed them
  half-open     handshakes without an end; their addresses may be forged
  by peer       closed by the client, not by the server (a leaking server
                has many)
  closing       closed by the server, not confirmed by the client
  oldest        since when the agent has seen the oldest connection
  silent        for how long clients have sent nothing, from the least to the
                most; a vanished client is silent while the server sends

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
    for of in &mut *connections {
        of.states.retain(|of| states.contains(&of.state));
        let open = of.states.iter().filter(|of| of.state != State::HalfOpen);
        of.established = open.map(|of| of.connections).sum();
        of.half_open = in_state(of, State::HalfOpen);
    }
    connections.retain(|of| !of.states.is_empty());
    connections.sort_by_key(|of| std::cmp::Reverse(of.established + of.half_open));
}

fn in_state(of: &SourceConnections, state: State) -> u64 {
    of.states.iter().filter(|of| of.state == state).map(|of| of.connections).sum()
}

fn render(connections: &[SourceConnections]) -> String {
    let heading = ["source", "service", "established", "half-open", "by peer", "closing", "oldest", "silent"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for of in connections {
        let SourceConnections { source, service, established, half_open, states } = of;
        let whole = source.prefix_len() == source.max_prefix_len();
        let source = if whole { source.addr().to_string() } else { source.to_string() };
        rows.push(vec![
            source,
            service.clone(),
            established.to_string(),
            half_open.to_string(),
            in_state(of, State::ClosedByPeer).to_string(),
            in_state(of, State::Closing).to_string(),
            time(states.iter().filter_map(|of| of.oldest_seconds).max()),
            silence(states),
        ]);
    }
    table(&rows)
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
        SourceConnections { source, service, established: 7, half_open: 1, states }
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
