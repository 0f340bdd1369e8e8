use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::Global;
use super::output::{print, print_json};
use crate::agent::Applied;
use crate::control::{ApplyRequest, path};
use crate::duration;

/// Make the policy of a file live, for good or until it is not confirmed in time
#[derive(Args, Debug)]
#[command(after_help = "\
With --confirm, the XDP program itself returns to the policy before when the time is over. It does so even if the agent has died or you are cut off.

A reload or a start of the agent reads the agent's own file again. Put the policy there to keep it.

Examples:
  guard apply new.toml --confirm 60s && guard status && guard confirm
  guard apply new.toml")]
pub(super) struct Apply {
    /// Policy file
    file: PathBuf,
    /// Return to the policy before unless `guard confirm` comes within this time [60s if no time is given]
    #[arg(long, value_name = "TIME", value_parser = confirm_time, num_args = 0..=1, default_missing_value = "60s")]
    confirm: Option<Duration>,
}

/// From long enough to type a command, to what nobody waits for.
fn confirm_time(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| format!("{error}; write 60s or 5m"))?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if bounds.contains(&time) { Ok(time) } else { Err("from 1s to 24h".into()) }
}

impl Apply {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let policy = std::fs::read_to_string(&self.file)
            .with_context(|| format!("cannot read the policy {}", self.file.display()))?;
        let confirm_within = self.confirm.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let request = ApplyRequest { policy, file: self.file.display().to_string(), confirm_within };
        let applied = global.client().post(path::APPLY, &request)?;
        print_applied(global, &applied)?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn print_applied(global: &Global, applied: &Applied) -> Result<()> {
    if global.json {
        return print_json(applied);
    }
    for warning in &applied.warnings {
        eprintln!("{warning}");
    }
    let Applied { generation, services, confirm_within, .. } = applied;
    print(&format!("policy generation {generation} is live: {}\n", services.join(", ")))?;
    if let Some(time) = confirm_within {
        let time = humantime::format_duration(Duration::from_millis(*time));
        print(&format!("the policy before comes back in {time} unless you say `guard confirm`\n"))?;
    }
    Ok(())
}
