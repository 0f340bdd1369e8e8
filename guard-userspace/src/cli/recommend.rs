use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::Global;
use super::blocks::time;
use super::duration::lasting;
use super::output::{print, print_json};
use crate::autoblock::Hypothetical;
use crate::control::{ClientError, path};
use crate::recommend::{Dropped, ObserveRequest, OwnLimits, Proposal};

/// Propose limits from what was seen
#[derive(Args, Debug)]
#[command(after_help = "\
While a service is in mode \"monitor\", the agent looks once a second at the traffic that the policy lets in, and keeps each source's peaks. The peaks outlast a restart. For services that enforce, use --for.

The proposed limits would have let all of that traffic through, with headroom. Rates come from the busiest minute, bursts from the busiest ten seconds.

Examples:
  guard recommend                 after a day in monitor mode
  guard recommend --service vllm --headroom 3
  guard recommend --for 10m       watch for ten minutes first
  guard recommend --reset         forget the peaks")]
pub(super) struct Recommend {
    /// For this service alone
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// How many times what was seen
    #[arg(long, default_value_t = 2.0, value_name = "TIMES")]
    headroom: f64,
    /// Watch all services for this time first
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasts: Option<Duration>,
    /// Forget what was seen, and begin anew
    #[arg(long, conflicts_with = "lasts")]
    reset: bool,
}

impl Recommend {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let millis = self.lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        if self.reset || millis.is_some() {
            let request = ObserveRequest { lasts: millis, reset: self.reset };
            global.client().post::<serde_json::Value>(path::OBSERVE, &request)?;
        }
        if self.reset {
            print("what was seen is forgotten\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        self.lasts.inspect(|lasts| wait(*lasts));
        let query = format!("{}?headroom={}", path::RECOMMEND, self.headroom);
        let mut proposals: Vec<Proposal> = global.client().get(&query)?;
        proposals.retain(|proposal| self.service.as_ref().is_none_or(|service| proposal.service == *service));
        if proposals.is_empty() {
            let of = self.service.map(|service| format!(" of {service:?}")).unwrap_or_default();
            return Err(ClientError::NotFound(format!(
                "nothing was seen{of}: set mode = \"monitor\" for a day, or watch with guard recommend --for 10m"
            ))
            .into());
        }
        if global.json {
            print_json(&proposals)?
        } else {
            print(&render(&proposals))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says how long it takes, where somebody reads it.
fn wait(lasts: Duration) {
    let end = Instant::now() + lasts;
    let is_seen = std::io::stderr().is_terminal();
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if is_seen {
            eprint!("\rwatching for another {} s ", left.as_secs() + 1);
        }
        thread::sleep(left.min(Duration::from_secs(1)));
    }
    if is_seen {
        eprintln!();
    }
}

fn render(proposals: &[Proposal]) -> String {
    let mut text = String::new();
    for proposal in proposals {
        let Proposal {
            service,
            since_ms,
            watched_seconds,
            sources,
            packets,
            busiest,
            dropped_meanwhile,
            limits: _,
            own,
            would_have_dropped,
            doubts,
            would_block,
            lines,
        } = proposal;
        let watched = humantime::format_duration(Duration::from_secs(*watched_seconds));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# {service}: watched for {watched} since {}: {packets} packets of {sources} sources",
            time(*since_ms)
        );
        for doubt in doubts {
            let _ = writeln!(text, "# TAKE CARE: {doubt}");
        }
        for Hypothetical { net, reason, .. } in would_block {
            let _ = writeln!(text, "# TAKE CARE: {net} would have been blocked: {reason}");
        }
        if let Some(busiest) = busiest {
            let _ = writeln!(
                text,
                "# the busiest ten seconds: {} packets of {}, until {}",
                busiest.packets_in_ten_seconds,
                busiest.source,
                time(busiest.at_ms)
            );
        }
        let _ = writeln!(
            text,
            "# meanwhile {} packets of {} sources were dropped, or would have been",
            dropped_meanwhile.packets, dropped_meanwhile.sources
        );
        for dropped in would_have_dropped {
            let _ = writeln!(text, "# {}", told(dropped, *packets));
        }
        for OwnLimits { prefix, .. } in own {
            let _ = writeln!(text, "# {prefix} sends far more than the others: it gets limits of its own");
        }
        text += lines;
        text.push('\n');
    }
    text
}

/// What limits that are so many times the proposed ones would have dropped, of so many packets.
fn told(dropped: &Dropped, packets: u64) -> String {
    let Dropped { times_the_proposed, packets_at_most, new_connections_at_most, sources_at_most, reasons } =
        dropped;
    let begin = format!("{times_the_proposed:>4} times these limits would have dropped");
    if reasons.is_empty() {
        return format!("{begin} nothing");
    }
    let share = *packets_at_most as f64 * 100.0 / packets.max(1) as f64;
    format!(
        "{begin} at most {packets_at_most} packets ({share:.2} %) and {new_connections_at_most} new connections of {sources_at_most} sources: {}",
        reasons.join(", ")
    )
}
