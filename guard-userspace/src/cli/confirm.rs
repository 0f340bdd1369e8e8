use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::agentless::Agentless;
use super::output::{print, print_json};
use crate::control::{ClientError, path};

/// Keep the policy that was applied with --confirm
#[derive(Args, Debug)]
#[command(after_help = "\
The command works without a running agent, too.

Example:
  guard apply new.toml --confirm 60s && guard confirm

Exit status: 3 if no policy waits for a confirmation, or its time is over.")]
pub(super) struct Confirm {}

impl Confirm {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let generation = match global.client().post::<Value>(path::CONFIRM, &()) {
            Ok(answer) => answer["generation"].as_u64(),
            Err(ClientError::NoAgent(_)) => Some(without_agent(global)?),
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&json!({ "generation": generation }))?;
        } else {
            print(&format!(
                "policy generation {} stays live; the next reload or start reads the agent's own file: put the policy there to keep it\n",
                generation.unwrap_or(0)
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn without_agent(global: &Global) -> Result<u64> {
    let mut guard = Agentless::open(global)?;
    if !guard.maps.confirm()? {
        let message =
            "no policy waits for a confirmation: none was applied with --confirm, or its time is over";
        return Err(ClientError::NotFound(message.into()).into());
    }
    Ok(guard.maps.live()?.generation)
}
