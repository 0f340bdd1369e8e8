use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::Global;
use super::blocks::time;
use super::output::{print, print_json, print_on};
use crate::control::{ClientError, path};
use crate::drops::Dropped;
use crate::events::{Entry, Page};
use crate::ledger::{Event, EventQuery, Ledger};
use crate::plain::plain_json;

/// How long the agent waits for something new before it answers that there is nothing.
const WAIT: Duration = Duration::from_secs(20);

/// Show what happened, the newest last: what was done and by whom, and what was dropped
#[derive(Args, Debug)]
#[command(after_help = "\
Guard samples drops: one line a second for each source and reason, with the number of packets. The agent keeps the last 4,096 of them. Without an agent the command shows only actions, such as blocks.

Examples:
  guard events
  guard events --source 10.66.1.2
  guard events --follow
  guard events --last 1000 --json")]
pub(super) struct Events {
    /// Only what concerns this address: itself, or a prefix around it
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// How many
    #[arg(long, default_value_t = 50, value_name = "N")]
    last: usize,
    /// Go on and show what happens, until interrupted
    #[arg(long, short)]
    follow: bool,
}

impl Events {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let source = self.source.map(|source| format!("&source={source}")).unwrap_or_default();
        let asked = format!("{}?last={}{source}", path::EVENTS, self.last);
        let page = match global.client().get::<Page>(&asked) {
            Ok(page) => page,
            Err(ClientError::NoAgent(_)) if !self.follow => self.without_agent(global)?,
            Err(error) => return Err(error.into()),
        };
        if self.follow {
            return follow(global, &source, page);
        }
        if global.json {
            print_json(&page.entries)?;
        } else if page.entries.is_empty() {
            print("nothing yet\n")?;
        } else {
            print(&page.entries.iter().map(render).collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn without_agent(&self, global: &Global) -> Result<Page> {
        let query = EventQuery { source: self.source, last: Some(self.last), after: None };
        let actions = Ledger::open(&global.state)?.events(&query)?;
        Ok(Page::new(actions, Vec::new(), None, 0, 0))
    }
}

/// Shows a page and all that come after it. Ends with who reads it, or with the agent.
fn follow(global: &Global, source: &str, mut page: Page) -> Result<ExitCode> {
    loop {
        for entry in &page.entries {
            let text = if global.json { line(entry)? } else { render(entry) };
            if !print_on(&text)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let Page { next_action, next_drop, .. } = page;
        let after = format!("after_action={next_action}&from_drop={next_drop}&wait={}", WAIT.as_millis());
        page = global.client().get(&format!("{}?{after}{source}", path::EVENTS))?;
    }
}

fn line(entry: &Entry) -> Result<String> {
    let json = serde_json::to_string(entry).context("cannot write an entry as JSON")?;
    Ok(format!("{}\n", plain_json(&json)))
}

pub(super) fn render(entry: &Entry) -> String {
    match entry {
        Entry::Action(event) => action(event),
        Entry::Drop(dropped) => drop(dropped),
    }
}

fn action(Event { id: _, at, action, net, by, outcome, details }: &Event) -> String {
    let net = net.map(|net| format!(" {net}")).or_else(|| list(details.as_ref()?)).unwrap_or_default();
    let detail = |key: &str| details.as_ref().and_then(|details| details[key].as_str());
    let reason = detail("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
    let sockets = details.as_ref().and_then(|details| details["sockets"].as_u64());
    let sockets = sockets.map(|sockets| format!(": {sockets} connections closed")).unwrap_or_default();
    format!("{} {}{net}, {outcome}, by {by}{reason}{sockets}\n", time(*at), action.name())
}

fn drop(dropped: &Dropped) -> String {
    let Dropped { at, source, source_port, port, protocol, service, verdict, reason, packets, length } =
        dropped;
    let end = source_port
        .map_or_else(|| source.to_string(), |port| std::net::SocketAddr::new(*source, port).to_string());
    let mut text = format!("{} {verdict} {end}", time(*at));
    // Writing to a string cannot fail.
    if let (Some(protocol), Some(port)) = (protocol, port) {
        let _ = write!(text, " to {protocol} port {port}");
    }
    if !service.is_empty() {
        let _ = write!(text, " ({service})");
    }
    let plural = if *packets == 1 { "" } else { "s" };
    let _ = writeln!(text, ": {reason}, {packets} packet{plural}, {length} bytes");
    text
}

/// How many a list had, and how it began.
fn list(details: &Value) -> Option<String> {
    let (count, first) = (details["count"].as_u64()?, details["first"].as_array()?);
    let first: Vec<&str> = first.iter().filter_map(Value::as_str).collect();
    let more = if count > first.len() as u64 { ", …" } else { "" };
    Some(format!(" {count}: {}{more}", first.join(", ")))
}
