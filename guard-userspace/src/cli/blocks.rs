use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::agentless::Agentless;
use super::output::{print, print_json, table};
use crate::blocks::{date, now};
use crate::control::{BlockStatus, ClientError, path};

/// List what is blocked: by whom, why, until when, and what it has dropped
#[derive(Args, Debug)]
#[command(after_help = "\
The command works without a running agent, too.

Examples:
  guard blocks
  guard blocks --json | jq '.[] | select(.dropped > 0)'")]
pub(super) struct ListBlocks {}

impl ListBlocks {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let blocks = match global.client().get::<Vec<BlockStatus>>(path::BLOCKS) {
            Ok(blocks) => blocks,
            Err(ClientError::NoAgent(_)) => without_agent(global)?,
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&blocks)?;
        } else if blocks.is_empty() {
            print("nothing is blocked\n")?;
        } else {
            print(&render(&blocks))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(blocks: &[BlockStatus]) -> String {
    let heading = ["blocked", "scope", "origin", "since", "ends in", "dropped", "by", "reason"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let at = now();
    for BlockStatus { block, dropped } in blocks {
        let left = block.until.map_or_else(
            || "never".to_owned(),
            |until| {
                let seconds = Duration::from_secs(until.saturating_sub(at).div_ceil(1000));
                humantime::format_duration(seconds).to_string()
            },
        );
        rows.push(vec![
            block.net.to_string(),
            block.scope.name().into(),
            block.origin.name().into(),
            time(block.since),
            left,
            dropped.to_string(),
            block.by.clone(),
            block.why(),
        ]);
    }
    table(&rows)
}

/// A time in UTC, to the second.
pub(super) fn time(millis: u64) -> String {
    date(millis)
}

fn without_agent(global: &Global) -> Result<Vec<BlockStatus>> {
    let mut guard = Agentless::open(global)?;
    Ok(guard.register(global)?.list(&guard.maps)?.into_iter().map(BlockStatus::from).collect())
}
