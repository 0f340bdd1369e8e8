use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::Global;
use super::block::{myself, nets};
use super::output::{print, print_json};
use crate::blocks::{Register, RegisterError};
use crate::control::{ClientError, UnblockRequest, path};
use crate::datapath::Maps;

/// End the block of an address or a prefix
#[derive(Args, Debug)]
#[command(after_help = "\
Works without a running agent, too.

Examples:
  guard unblock 10.66.1.2
  guard blocks --json | jq -r '.[] | select(.origin == \"auto\") | .net' | guard unblock -

Exit status: 3 if it was not blocked (a list: if none was).")]
pub(super) struct Unblock {
    /// Address or prefix, as it was blocked; - reads a list from standard input, one a line
    #[arg(value_name = "ADDR_OR_CIDR")]
    net: String,
}

impl Unblock {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let request = UnblockRequest { nets: nets(&self.net)? };
        let unblocked = match global.client().post::<Value>(path::UNBLOCK, &request) {
            Ok(answer) => answer["unblocked"].as_u64().unwrap_or(0),
            Err(ClientError::NoAgent(_)) => without_agent(global, &request.nets)?,
            Err(error) => return Err(error.into()),
        };
        if unblocked == 0 {
            return Err(ClientError::NotFound("none of them was blocked".into()).into());
        }
        if global.json {
            print_json(&json!({ "unblocked": unblocked }))?;
        } else if self.net == "-" {
            print(&format!("{unblocked} are not blocked any longer\n"))?;
        } else {
            print(&format!("{} is not blocked any longer\n", self.net))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn without_agent(global: &Global, nets: &[IpNet]) -> Result<u64> {
    let mut maps = Maps::open(&global.pins())?;
    let mut register = Register::open(global.state.clone(), &mut maps)?;
    match register.unblock(&mut maps, nets, &myself()) {
        Ok(unblocked) => Ok(unblocked as u64),
        Err(error @ RegisterError::NotBlocked { .. }) => Err(ClientError::NotFound(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}
