use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;

use super::Global;
use super::output::{print, print_json, table};
use crate::autoblock::Evidence;
use crate::blocks::{Block, Register, now};
use crate::control::{BlockStatus, ClientError, path};
use crate::datapath::Maps;

/// List what is blocked: by whom, why, until when, and what it has dropped
#[derive(Args, Debug)]
#[command(after_help = "\
Works without a running agent, too.

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
            why(block),
        ]);
    }
    table(&rows)
}

/// The reason, and in words what an automatic block goes by beside it.
fn why(block: &Block) -> String {
    let evidence = block.evidence.as_ref().map(|evidence| {
        Evidence::deserialize(evidence).map_or_else(|_| evidence.to_string(), |evidence| evidence.to_string())
    });
    let parts: Vec<String> = block.reason.iter().cloned().chain(evidence).collect();
    parts.join("; ")
}

/// A time in UTC, to the second.
pub(super) fn time(millis: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

fn without_agent(global: &Global) -> Result<Vec<BlockStatus>> {
    let mut maps = Maps::open(&global.pins())?;
    let mut register = Register::open(global.state.clone(), &mut maps)?;
    Ok(register.list(&maps)?.into_iter().map(BlockStatus::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_block_says_why() {
        let figures = json!({ "kind": "refused", "service": "vllm", "count": 9000, "threshold": 6000, "window": 60, "strike": 2 });
        let cases = [
            (None, None, ""),
            (Some("scans us"), None, "scans us"),
            (Some("too much"), Some(figures), "too much; service vllm, 2nd block"),
            // Of a newer guard.
            (Some("too much"), Some(json!({ "new": 1 })), "too much; {\"new\":1}"),
        ];
        for (reason, evidence, expected) in cases {
            let block = Block {
                net: "10.0.0.1/32".parse().unwrap(),
                scope: crate::blocks::Scope::Services,
                origin: crate::blocks::Origin::Auto,
                reason: reason.map(String::from),
                evidence,
                by: "guard".into(),
                since: 0,
                until: None,
            };
            assert_eq!(why(&block), expected);
        }
    }
}
