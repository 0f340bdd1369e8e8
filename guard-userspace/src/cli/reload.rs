use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::apply::print_applied;
use crate::control::path;

/// Read the policy again and make it live, atomically
#[derive(Args, Debug)]
#[command(after_help = "\
The agent reads the file that it was started with. SIGHUP does the same, and so does a change of the file, unless the agent runs with --no-watch. The agent refuses a policy with an error and keeps the policy before.

Examples:
  guard check && guard reload
  guard reload --json")]
pub(super) struct Reload {}

impl Reload {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let applied = global.client().post(path::RELOAD, &())?;
        print_applied(global, &applied)?;
        Ok(ExitCode::SUCCESS)
    }
}
