use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use guard_common::Reason;
use ipnet::IpNet;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::Global;
use super::duration::lasting;
use super::output::print_json;
use crate::capture::{self, CaptureFile, Line, Missed};
use crate::config::parse_prefix;
use crate::control::{Ended, path};

/// Captures hold payload, which is nobody else's business.
const MODE: u32 = 0o600;

/// Write dropped packets to a file that Wireshark and tshark open
#[derive(Args, Debug)]
#[command(after_help = "\
Writes the first 128 bytes of each dropped packet as pcapng. In monitor mode these are the packets that would be dropped. The comment of each packet says why: `reason=not_allowed verdict=drop service=web`.

Each CPU shows at most 128 packets in 67 ms. The command says at its end how many packets it left out. A packet that is shown costs less than a microsecond.

Examples:
  All drops, until Ctrl-C or 10,000 packets:
    guard capture -w drops.pcapng
  Why does this customer not get through?
    guard capture --source 10.1.2.3 --for 30s -w customer.pcapng
  Some reasons only:
    guard capture --reason malformed --reason denied -w odd.pcapng
  Into tshark:
    guard capture -w - | tshark -r - -T fields -e ip.src -e frame.comment")]
pub(super) struct Capture {
    /// Only packets dropped for this reason; repeatable [default: all]
    #[arg(long = "reason", value_name = "REASON", value_parser = reasons())]
    reasons: Vec<String>,
    /// Only packets for this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only packets from this address or prefix
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    source: Option<IpNet>,
    /// End after so many packets; 10,000 are 2 MB, and of a flood a few seconds
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// End after this time [default: when interrupted]
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasts: Option<Duration>,
    /// Where to; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Write over a file that exists
    #[arg(long)]
    force: bool,
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(capture::reasons().map(Reason::name))
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    file: PathBuf,
    packets: u64,
    #[serde(flatten)]
    missed: Missed,
    /// Whether it ended with the agent, before its time.
    cut_short: bool,
}

impl Capture {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let to_stdout = self.write == Path::new("-");
        if to_stdout && global.json {
            eprintln!("guard: --json and -w - both want standard output: choose one");
            return Ok(ExitCode::from(USAGE));
        }
        if !to_stdout && !self.force && self.write.exists() {
            bail!("{}", exists(&self.write));
        }
        let mut writer = Writer { file: None, failed: None, summary: Summary::default() };
        let stream = global.client().stream(&self.path(), self.end(), |line| writer.take(&self, line));
        let Writer { failed, summary, file: _ } = writer;
        let ended = stream?;
        if let Some(error) = failed {
            return Err(error);
        }
        let summary = Summary { file: self.write, cut_short: ended == Ended::WithAgent, ..summary };
        if global.json {
            print_json(&summary)?;
        }
        eprintln!("{}", said(&summary));
        if summary.cut_short {
            bail!("the agent has ended, and the capture with it");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn path(&self) -> String {
        let reasons = (!self.reasons.is_empty()).then(|| ("reasons", self.reasons.join(",")));
        let service = self.service.as_ref().map(|service| ("service", escaped(service)));
        let source = self.source.map(|source| ("source", source.to_string()));
        let given = [reasons, service, source].into_iter().flatten();
        let given: Vec<String> = given.map(|(key, value)| format!("{key}={value}")).collect();
        format!("{}?{}", path::CAPTURE, given.join("&"))
    }

    /// The end that is asked for: a signal, or the time.
    async fn end(&self) {
        let signal = |kind| async move {
            match signal(kind) {
                Ok(mut signal) => signal.recv().await.unwrap_or_default(),
                // Then the signal ends the process.
                Err(_) => std::future::pending().await,
            }
        };
        let time = async {
            match self.lasts {
                Some(lasts) => sleep(lasts).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signal(SignalKind::interrupt()) => {}
            () = signal(SignalKind::terminate()) => {}
            () = time => {}
        }
    }

    fn open(&self) -> Result<Box<dyn Write>> {
        if self.write == Path::new("-") {
            return Ok(Box::new(io::stdout()));
        }
        let mut options = OpenOptions::new();
        options.write(true).mode(MODE);
        if self.force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        let file: io::Result<File> = options.open(&self.write);
        match file {
            Ok(file) => Ok(Box::new(file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{}", exists(&self.write)),
            Err(error) => Err(anyhow!(error).context(format!("cannot write {}", self.write.display()))),
        }
    }
}

/// Writes what comes.
struct Writer {
    file: Option<CaptureFile<Box<dyn Write>>>,
    failed: Option<anyhow::Error>,
    summary: Summary,
}

impl Writer {
    fn take(&mut self, capture: &Capture, line: Line) -> ControlFlow<()> {
        match self.try_take(capture, line) {
            Ok(flow) => flow,
            Err(error) => {
                // A reader that has seen enough is no failure.
                let is_pipe = error
                    .downcast_ref()
                    .is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe);
                self.failed = (!is_pipe).then_some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn try_take(&mut self, capture: &Capture, line: Line) -> Result<ControlFlow<()>> {
        match (line, &mut self.file) {
            (Line::Begin { interfaces }, file) => {
                let begun = CaptureFile::begin(capture.open()?, &interfaces);
                *file = Some(begun.with_context(|| cannot_write(capture))?);
                eprintln!("guard: capturing what is dropped; Ctrl-C ends it");
            }
            (Line::Packet(packet), Some(file)) => {
                file.write(&packet).with_context(|| cannot_write(capture))?;
                self.summary.packets += 1;
            }
            (Line::Packet(_), None) => bail!("the agent sends a packet before its capture begins"),
            (Line::Missed(missed), _) => self.summary.missed = missed,
        }
        Ok(if self.summary.packets < capture.count {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    }
}

fn cannot_write(capture: &Capture) -> String {
    format!("cannot write {}", capture.write.display())
}

fn exists(file: &Path) -> String {
    format!("{} exists: choose another name, or write over it with --force", file.display())
}

fn said(Summary { file, packets, missed, .. }: &Summary) -> String {
    let Missed { left_out, lost } = missed;
    let file = if file == Path::new("-") { "standard output".into() } else { file.display().to_string() };
    let plural = if *packets == 1 { "" } else { "s" };
    format!("guard: {packets} packet{plural} written to {file}; {left_out} left out by sampling, {lost} lost")
}

/// A value in a query: letters, digits and some signs stand for themselves.
fn escaped(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

/// Wrong usage, as [`super::EXAMPLES`] promises it.
const USAGE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_escaped() {
        assert_eq!(escaped("vllm-1.a_B"), "vllm-1.a_B");
        assert_eq!(escaped("a&b=é"), "a%26b%3D%C3%A9");
    }
}
