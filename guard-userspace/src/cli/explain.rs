use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use guard_common::parse::Protocol;

use super::Global;
use super::agentless::Agentless;
use super::output::{print, print_json};
use crate::agent;
use crate::autoblock::Hypothetical;
use crate::control::{BlockStatus, ClientError, path};
use crate::explain::{Background, Explanation};

/// Show what a packet from an address would get now, and each step that leads to it
#[derive(Args, Debug)]
#[command(after_help = "\
Asks the running tables, and uses up no limit. The sign > marks the step that decided against the source. Without --port, the command asks about every guarded service.

Examples:
  guard explain 10.1.2.3
  guard explain fd00:1::7 --port 8000
  guard explain 10.1.2.3 --port 4500 --protocol udp --json")]
pub(super) struct Explain {
    /// Where the packet comes from
    #[arg(value_name = "ADDR")]
    source: IpAddr,
    /// Destination port
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Protocol of the port
    #[arg(long, default_value = "tcp", requires = "port")]
    protocol: ProtocolName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolName {
    Tcp,
    Udp,
}

impl Explain {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let protocol = match self.protocol {
            ProtocolName::Tcp => Protocol::Tcp,
            ProtocolName::Udp => Protocol::Udp,
        };
        let ask = agent::ExplainQuery {
            source: self.source,
            port: self.port,
            protocol: agent::protocol_name(protocol).into(),
        };
        let query = format!("{}?{}", path::EXPLAIN, ask.to_query());
        let explanations: Vec<Explanation> = match global.client().get(&query) {
            Ok(explanations) => explanations,
            Err(ClientError::NoAgent(_)) => without_agent(global, &ask)?,
            Err(error) => return Err(error.into()),
        };
        if explanations.is_empty() {
            bail!("no port is guarded, so there is nothing to explain");
        }
        if global.json {
            print_json(&explanations)?
        } else {
            print(&render(&explanations))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Nobody knows from which file the live policy is, so its lines are not named.
fn without_agent(global: &Global, ask: &agent::ExplainQuery) -> Result<Vec<Explanation>> {
    let mut guard = Agentless::open(global)?;
    let blocks = guard.register(global)?.around(&guard.maps, ask.source)?;
    let blocks = blocks.into_iter().map(BlockStatus::from).collect();
    Ok(agent::explain(&guard.maps, ask, &Background { blocks, ..Background::default() })?)
}

fn render(explanations: &[Explanation]) -> String {
    let mut text = String::new();
    for explanation in explanations {
        let Explanation { source, protocol, port, verdict, reason, steps, would_block, advice, .. } =
            explanation;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{source} to {protocol} port {port}: {}, {reason}", verdict.to_uppercase());
        let decided = steps.len().saturating_sub(1);
        for (number, step) in steps.iter().enumerate() {
            let mark = if number == decided && verdict != "pass" { '>' } else { ' ' };
            let _ = writeln!(text, "{mark} {:<12} {}", step.step, step.text);
        }
        if let Some(Hypothetical { net, reason, .. }) = would_block {
            let _ = writeln!(
                text,
                "  {:<12} if the service enforced, {net} would be blocked: {reason}",
                "monitor"
            );
        }
        if let Some(advice) = advice {
            let _ = writeln!(text, "  {:<12} {advice}", "next");
        }
    }
    text
}
