use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::output::{print, print_json, table};
use crate::connections::SourceConnections;
use crate::control::path;

/// Show who has how many connections open on the guarded ports, the one with most first
#[derive(Args, Debug)]
#[command(after_help = "\
Over all network namespaces of this host, containers included. Established: what a server holds, until it lets go of it. Half-open:
handshakes that were begun and not finished; their addresses may be forged.

Examples:
  guard connections
  guard connections --top 10
  guard connections --service vllm --json | jq '.[0].source'")]
pub(super) struct ListConnections {
    /// Only this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// At most so many sources
    #[arg(long, value_name = "N")]
    top: Option<usize>,
}

impl ListConnections {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let mut connections: Vec<SourceConnections> = global.client().get(path::CONNECTIONS)?;
        connections.retain(|of| self.service.as_ref().is_none_or(|service| *service == of.service));
        connections.truncate(self.top.unwrap_or(usize::MAX));
        if global.json {
            print_json(&connections)?;
        } else if connections.is_empty() {
            print("nobody is connected\n")?;
        } else {
            print(&render(&connections))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(connections: &[SourceConnections]) -> String {
    let heading = ["source", "service", "established", "half-open"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for SourceConnections { source, service, established, half_open } in connections {
        let whole = source.prefix_len() == source.max_prefix_len();
        let source = if whole { source.addr().to_string() } else { source.to_string() };
        rows.push(vec![source, service.clone(), established.to_string(), half_open.to_string()]);
    }
    table(&rows)
}
