use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use super::Global;
use super::output::{print, print_json};
use crate::control::{AgentProcess, ClientError, DetachAnswer, path};

/// Take guard out of the kernel: programs, maps, pins; a running agent ends
#[derive(Args, Debug)]
#[command(after_help = "\
Afterwards guard protects, drops and counts nothing, and the kernel has no blocks. It is no error if nothing is attached.

A running agent ends, and systemd does not restart it. It starts again at the next boot if its unit is enabled.

Examples:
  guard detach
  GUARD_PIN_PATH=/sys/fs/bpf/other guard detach   with another pin path")]
pub(super) struct Detach {}

/// How long an agent may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

impl Detach {
    pub(super) fn execute(self, global: &Global) -> Result<ExitCode> {
        let process = AgentProcess::listening_on(&global.socket);
        let DetachAnswer { interfaces, unit } = match global.client().post(path::DETACH, &()) {
            Ok(answer) => {
                match process {
                    Ok(process) => wait_for_the_end(&process)?,
                    Err(error) => eprintln!("guard: cannot wait for the end of the agent: {error}"),
                }
                answer
            }
            Err(ClientError::NoAgent(_)) => DetachAnswer { interfaces: global.pins().detach()?, unit: None },
            Err(error) => return Err(error.into()),
        };
        if global.json {
            print_json(&json!({ "interfaces": interfaces, "unit": unit }))?;
            return Ok(ExitCode::SUCCESS);
        }
        match interfaces {
            0 => print("guard was on no interface; nothing of it is in the kernel now\n")?,
            _ => print(&format!("guard has left the kernel: it was on {interfaces} interface(s)\n"))?,
        }
        if let Some(unit) = unit {
            print(&format!(
                "systemd starts guard again at the next boot if {unit} is enabled; `systemctl disable {unit}` prevents that\n"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A command that follows may start another agent, so this one must be gone.
fn wait_for_the_end(agent: &AgentProcess) -> Result<()> {
    let has_ended = agent.has_ended_within(PATIENCE).context("cannot wait for the end of the agent")?;
    ensure!(
        has_ended,
        "guard has left the kernel, but its agent has not ended within {PATIENCE:?}: see its log"
    );
    Ok(())
}
