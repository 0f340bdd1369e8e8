use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ipnet::IpNet;

use super::Global;
use super::agentless::Agentless;
use super::block::{myself, nets};
use super::output::{print, print_json};
use crate::blocks::{RegisterError, Unblocked};
use crate::control::{ClientError, UnblockRequest, path};

/// End the block of an address or a prefix
#[derive(Args, Debug)]
#[command(after_help = "\
The command works without a running agent, too.

Examples:
  guard unblock 10.66.1.2
  guard blocks --json | jq -r '.[] | select(.origin == \"auto\") | .net' \\
    | guard unblock -

Exit status: 3 if it was not blocked (a list: if none was).")]
pub(super) struct Unblock {
    /// Address or prefix, as it was blocked; - reads a list from standard input
    #[arg(value_name = "ADDR_OR_CIDR")]
    net: String,
    /// Take an empty list for what it says; else it is an error
    #[arg(long)]
    allow_empty: bool,
}

impl Unblock {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let request = UnblockRequest { nets: nets(&self.net, self.allow_empty)? };
        let answer = match global.client().post::<Unblocked>(path::UNBLOCK, &request) {
            Ok(answer) => answer,
            Err(ClientError::NoAgent(_)) => without_agent(global, &request.nets)?,
            Err(error) => return Err(error.into()),
        };
        if answer.unblocked == 0 && !request.nets.is_empty() {
            return Err(ClientError::NotFound("none of them was blocked".into()).into());
        }
        if let Some(error) = &answer.not_recorded {
            eprintln!("guard: it is let in, but blocked again at the next boot: {error}");
        }
        if global.json {
            print_json(&answer)?;
        } else if self.net == "-" {
            print(&format!("{} are not blocked any longer\n", answer.unblocked))?;
        } else {
            print(&format!("{} is not blocked any longer\n", self.net))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn without_agent(global: &Global, nets: &[IpNet]) -> Result<Unblocked> {
    let mut guard = Agentless::open(global)?;
    match guard.register(global)?.unblock(&mut guard.maps, nets, &myself(), |_| BTreeMap::new()) {
        Ok(answer) => Ok(answer),
        Err(error @ RegisterError::NotBlocked { .. }) => Err(ClientError::NotFound(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}
