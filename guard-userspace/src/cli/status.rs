use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::blocks::time;
use super::output::{print, print_json, table};
use crate::agent::{PolicyStatus, Status};
use crate::autoblock::Hypothetical;
use crate::control::{ClientError, path};

/// Show what is guarded, how, and what was counted
#[derive(Args, Debug)]
#[command(after_help = "\
Without a running agent the command shows the state of the kernel. The XDP program goes on to count.

Examples:
  guard status
  guard status --all     reasons that never occurred, too
  guard status --json | jq '.counters[] | select(.verdict == \"drop\")'")]
pub(super) struct ShowStatus {
    /// Show counters that are zero, too
    #[arg(long)]
    all: bool,
}

impl ShowStatus {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let status = match global.client().get::<Status>(path::STATUS) {
            Ok(status) => status,
            Err(ClientError::NoAgent(_)) => Status::of_pins(&global.pins())?,
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&status)?;
        } else {
            print(&self.render(&status))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn render(&self, status: &Status) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", agent_line(status));
        let _ = writeln!(text, "{}", policy_line(status));
        for problem in &status.problems {
            let _ = writeln!(text, "PROBLEM    {problem}");
        }
        for warning in &status.warnings {
            let _ = writeln!(text, "WARNING    {warning}");
        }
        let _ = write!(text, "\ninterfaces\n{}", interfaces(status));
        if !status.unguarded.is_empty() {
            let _ = write!(
                text,
                "\nNOT GUARDED: interfaces that are up and have an address\n{}",
                unguarded(status)
            );
        }
        if !status.services.is_empty() {
            let _ = write!(text, "\nservices\n{}", services(status));
        }
        if !status.would_block.is_empty() {
            let _ = write!(text, "\nwould be blocked, if their services enforced\n{}", would_block(status));
        }
        let _ = write!(text, "\ntables\n{}", tables(status));
        let _ = write!(text, "\npackets\n{}", self.counters(status));
        text
    }

    fn counters(&self, status: &Status) -> String {
        let mut rows = vec![["service", "verdict", "reason", "packets", "bytes"].map(String::from).to_vec()];
        for counter in status.counters.iter().filter(|counter| self.all || counter.packets > 0) {
            let service = if counter.service.is_empty() { "-" } else { &counter.service };
            let (packets, bytes) = (counter.packets.to_string(), counter.bytes.to_string());
            rows.push(vec![service.into(), counter.verdict.clone(), counter.reason.clone(), packets, bytes]);
        }
        if rows.len() == 1 { "  none yet\n".into() } else { table(&rows) }
    }
}

fn agent_line(status: &Status) -> String {
    match (status.pid, status.uptime_seconds) {
        (Some(pid), Some(uptime)) => {
            let uptime = humantime::format_duration(Duration::from_secs(uptime));
            format!("agent      running, process {pid}, for {uptime} (guard {})", status.version)
        }
        _ => "agent      NOT RUNNING; the kernel goes on with its last policy".into(),
    }
}

fn policy_line(status: &Status) -> String {
    let PolicyStatus { file, generation, unconfirmed_for, reload_error, reload_put_off, .. } = &status.policy;
    let mut line = format!("policy     generation {generation}");
    if let Some(file) = file {
        line += &format!(" from {file}");
    }
    if let Some(left) = unconfirmed_for {
        line += &format!(
            "; NOT CONFIRMED: the one before comes back in {left:.0} s unless `guard confirm` comes first"
        );
    }
    if *reload_put_off {
        line +=
            "\n           the policy file has changed, and is read once no policy awaits its confirmation";
    }
    if let Some(error) = reload_error {
        line += &format!("\n           THE LAST RELOAD WAS REFUSED, this policy stayed live:\n{error}");
    }
    line
}

fn interfaces(status: &Status) -> String {
    if status.interfaces.is_empty() {
        return "  none: no packet is judged\n".into();
    }
    let mut rows = vec![["interface", "index", "mode", "frames", "why"].map(String::from).to_vec()];
    for interface in &status.interfaces {
        let frames = match interface.multi_buffer {
            Some(true) => "any size",
            Some(false) => "one buffer",
            None => "-",
        };
        let why = interface.why.clone().unwrap_or_default();
        rows.push(vec![
            interface.name.clone(),
            interface.index.to_string(),
            interface.mode.clone(),
            frames.into(),
            why,
        ]);
    }
    table(&rows)
}

fn unguarded(status: &Status) -> String {
    let mut rows = vec![["interface", "index", "why"].map(String::from).to_vec()];
    rows.extend(
        status.unguarded.iter().map(|interface| {
            vec![interface.name.clone(), interface.index.to_string(), interface.why.clone()]
        }),
    );
    table(&rows)
}

fn services(status: &Status) -> String {
    let mut rows = vec![["service", "ports", "protocols", "mode"].map(String::from).to_vec()];
    for service in &status.services {
        let (ports, protocols) = (service.ports.join(","), service.protocols.join(","));
        rows.push(vec![service.name.clone(), ports, protocols, service.mode.clone()]);
    }
    table(&rows)
}

fn would_block(status: &Status) -> String {
    let mut rows = vec![["source", "service", "for", "times", "last", "why"].map(String::from).to_vec()];
    for block in &status.would_block {
        let Hypothetical { net, service, reason, lasts_seconds, at_ms, times } = block;
        let lasts = humantime::format_duration(Duration::from_secs(*lasts_seconds)).to_string();
        rows.push(vec![
            net.to_string(),
            service.clone(),
            lasts,
            times.to_string(),
            time(*at_ms),
            reason.clone(),
        ]);
    }
    table(&rows)
}

fn tables(status: &Status) -> String {
    let mut rows = vec![["table", "entries", "room", "full"].map(String::from).to_vec()];
    for map in &status.maps {
        let room = map.capacity.map_or_else(|| "as needed".into(), |room| room.to_string());
        let full =
            map.capacity.map_or_else(|| "-".into(), |room| format!("{} %", map.entries * 100 / room.max(1)));
        rows.push(vec![map.map.clone(), map.entries.to_string(), room, full]);
    }
    table(&rows)
}
