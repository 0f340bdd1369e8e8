use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::Global;
use super::output::{print, print_json, table};
use super::policy_source::PolicySource;
use crate::plan;
use crate::simulate::{self, Simulation};

/// Run a capture through a policy and show what it would pass and drop; needs no privileges
#[derive(Args, Debug)]
#[command(after_help = "\
The simulation runs the same decision as the XDP program. The time in the capture is the clock of the limits.

Examples:
  Record (as root):
    tcpdump -i eth0 -w day.pcap -s 128 'port 8000'
  Judge the capture by /etc/guard/guard.toml:
    guard simulate day.pcap
  ... by another policy:
    guard simulate day.pcap --config stricter.toml
  ... by flags alone:
    guard simulate day.pcap -i eth0 -p 8000 -a 10.0.0.0/8
  From a pipe:
    tcpdump -i eth0 -w - -c 10000 | guard simulate -")]
pub(super) struct Simulate {
    /// Capture, pcap or pcapng, of an Ethernet interface; - reads standard input
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,
    /// Show this many sources
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    #[command(flatten)]
    source: PolicySource,
}

impl Simulate {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let policy = self.source.origin()?.read()?.checked.policy;
        let plan =
            plan::compile(&policy, &BTreeMap::new()).context("the policy does not fit into the tables")?;
        let capture = open(&self.capture)?;
        let simulation = simulate::run(plan, capture)
            .with_context(|| format!("cannot simulate {}", self.capture.display()))?;
        if global.json {
            print_json(&simulation)?;
        } else {
            print(&self.render(&simulation))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn render(&self, simulation: &Simulation) -> String {
        let Simulation { packets, bytes, seconds, verdicts, sources } = simulation;
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{packets} packets, {bytes} bytes, {seconds:.3} s\n\nverdicts");
        let mut rows = vec![["service", "verdict", "reason", "packets", "bytes"].map(String::from).to_vec()];
        for counted in verdicts {
            let service = if counted.service.is_empty() { "-" } else { &counted.service };
            let (packets, bytes) = (counted.packets.to_string(), counted.bytes.to_string());
            rows.push(vec![service.into(), counted.verdict.into(), counted.reason.into(), packets, bytes]);
        }
        text += &table(&rows);
        let _ = writeln!(
            text,
            "\nsources, the most dropped first ({} of {})",
            self.top.min(sources.len()),
            sources.len()
        );
        let mut rows = vec![["source", "packets", "dropped", "bytes", "reasons"].map(String::from).to_vec()];
        for source in sources.iter().take(self.top) {
            let reasons = source.reasons.iter().map(|(reason, packets)| format!("{reason} {packets}"));
            let reasons = reasons.collect::<Vec<_>>().join(", ");
            let numbers = [source.packets, source.dropped, source.bytes].map(|number| number.to_string());
            let [packets, dropped, bytes] = numbers;
            rows.push(vec![source.source.to_string(), packets, dropped, bytes, reasons]);
        }
        text + &table(&rows)
    }
}

fn open(capture: &Path) -> Result<Box<dyn Read>> {
    if capture == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file =
        File::open(capture).with_context(|| format!("cannot open the capture {}", capture.display()))?;
    Ok(Box::new(BufReader::new(file)))
}
