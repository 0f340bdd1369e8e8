use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::Global;
use super::blocks::time;
use super::output::{print, print_json};
use crate::control::{ClientError, path};
use crate::ledger::{Event, EventQuery, Ledger};

/// Show what was done: blocks, reloads and the like, by whom and when; the newest last
#[derive(Args, Debug)]
#[command(after_help = "\
Works without a running agent, too.

Examples:
  guard events
  guard events --source 10.66.1.2
  guard events --last 1000 --json")]
pub(super) struct Events {
    /// Only what concerns this address: itself, or a prefix around it
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// How many
    #[arg(long, default_value_t = 50, value_name = "N")]
    last: usize,
}

impl Events {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let query = EventQuery { source: self.source, last: Some(self.last) };
        let source = self.source.map(|source| format!("&source={source}")).unwrap_or_default();
        let asked = format!("{}?last={}{source}", path::EVENTS, self.last);
        let events = match global.client().get::<Vec<Event>>(&asked) {
            Ok(events) => events,
            Err(ClientError::NoAgent(_)) => Ledger::open(&global.state)?.events(&query)?,
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&events)?;
        } else {
            print(&render(&events))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(events: &[Event]) -> String {
    let mut text = String::new();
    for Event { at, action, net, by, outcome, details } in events {
        let net = net.map(|net| format!(" {net}")).or_else(|| list(details.as_ref()?)).unwrap_or_default();
        let reason = details.as_ref().and_then(|details| details["reason"].as_str());
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}{net}, {outcome}, by {by}{reason}", time(*at), action.name());
    }
    if text.is_empty() { "nothing yet\n".into() } else { text }
}

/// How many a list had, and how it began.
fn list(details: &Value) -> Option<String> {
    let (count, first) = (details["count"].as_u64()?, details["first"].as_array()?);
    let first: Vec<&str> = first.iter().filter_map(Value::as_str).collect();
    let more = if count > first.len() as u64 { ", …" } else { "" };
    Some(format!(" {count}: {}{more}", first.join(", ")))
}
