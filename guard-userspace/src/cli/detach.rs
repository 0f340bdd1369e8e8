use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::output::{print, print_json};
use crate::control::{ClientError, path};

/// Take guard out of the kernel: programs, maps, pins; a running agent ends
#[derive(Args, Debug)]
#[command(after_help = "\
Afterwards nothing is guarded, dropped or counted any more, and blocks are gone from the kernel. It is no error when there is nothing to
take out.

Examples:
  guard detach
  GUARD_PIN_PATH=/sys/fs/bpf/other guard detach      one that was started with a pin path of its own")]
pub(super) struct Detach {}

impl Detach {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let interfaces = match global.client().post::<Value>(path::DETACH, &()) {
            Ok(answer) => answer["interfaces"].as_u64().unwrap_or(0),
            Err(ClientError::NoAgent(_)) => global.pins().detach()? as u64,
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&json!({ "interfaces": interfaces }))?;
        } else if interfaces == 0 {
            print("guard was on no interface; nothing of it is in the kernel now\n")?;
        } else {
            print(&format!("guard has left the kernel: it was on {interfaces} interface(s)\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
