use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use super::Global;
use super::blocks::time;
use super::duration::lasting;
use super::output::{print, print_json};
use crate::control::{LogDropsAnswer, LogDropsRequest, path};

/// What drops are logged for, unless another time is given.
const A_WHILE: &str = "1m";

/// Switch on, for a while, what helps to find a fault
#[derive(Args, Debug)]
pub(super) struct Debug {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Drops(Drops),
}

/// Write dropped packets to the agent's log, a line each
#[derive(Args, Debug)]
#[command(after_help = "\
Each CPU logs at most eight lines in 67 ms. Logging ends after its time, and when the agent ends. `guard capture` shows whole packets and `guard events` counts; this command is for an operator who has only the log.

Examples:
  guard debug drops on             log drops for a minute
  guard debug drops on --for 10m   ... for ten minutes
  guard debug drops off
  journalctl -u guard -f           read the log, under systemd")]
struct Drops {
    switch: Switch,
    /// For how long
    #[arg(long = "for", value_name = "TIME", value_parser = lasting, default_value = A_WHILE)]
    lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Debug {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let What::Drops(Drops { switch, lasts }) = self.what;
        let lasts = match switch {
            Switch::On => Some(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX)),
            Switch::Off => None,
        };
        let answer: LogDropsAnswer = global.client().post(path::LOG_DROPS, &LogDropsRequest { lasts })?;
        if global.json {
            print_json(&answer)?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&match answer.until {
            Some(until) => format!("dropped packets are written to the agent's log until {}\n", time(until)),
            None => "dropped packets are not written to the log\n".to_owned(),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
