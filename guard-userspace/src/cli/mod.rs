//! The command line: one file a verb. Only this module prints.

mod agentless;
mod apply;
mod block;
mod blocks;
mod caller;
mod capture;
mod check;
mod confirm;
mod connections;
mod debug;
mod detach;
mod duration;
mod events;
mod explain;
mod failure;
mod man_page;
mod output;
mod policy_source;
mod recommend;
mod reload;
mod run;
mod shell;
mod simulate;
mod status;
mod top;
mod unblock;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::agent;
use crate::control::Client;
use crate::datapath::pins::Pins;
use failure::report;

const EXAMPLES: &str = "\
Examples:
  Guard a port, without a policy file:
    guard run --interface eth0 --port 8000 --allow 10.0.0.0/8
  Check a policy, run with it, look at the result:
    guard check /etc/guard/guard.toml
    guard run
    guard status
  Find out why an address does not get through:
    guard explain 10.1.2.3
    guard capture --source 10.1.2.3 -w drops.pcapng
  Stop a source now:
    guard block 10.66.1.2 --for 1h --kill
  Try another policy on recorded traffic, then for a minute on the host:
    guard simulate day.pcap --config new.toml
    guard apply new.toml --confirm 60s
  Take guard out of the kernel:
    guard detach

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found.";

/// Guards the ports of an inference host in the kernel: who may connect, and how much.
#[derive(Parser, Debug)]
#[command(name = "guard", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
struct Global {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Control socket of the agent
    #[arg(
        long,
        global = true,
        env = "GUARD_SOCKET",
        default_value = "/run/guard/guard.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// Blocks and audit log, a file
    #[arg(
        id = "ledger",
        long = "ledger",
        global = true,
        env = "GUARD_STATE",
        default_value = "/var/lib/guard/guard.db",
        value_name = "PATH"
    )]
    state: PathBuf,
    /// Where maps and links are pinned, on a BPF file system
    #[arg(
        long,
        global = true,
        env = "GUARD_PIN_PATH",
        default_value = "/sys/fs/bpf/guard",
        value_name = "PATH"
    )]
    pin_path: PathBuf,
}

impl Global {
    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    fn pins(&self) -> Pins {
        Pins::new(&self.pin_path)
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Reload(reload::Reload),
    Apply(apply::Apply),
    Confirm(confirm::Confirm),
    Status(status::ShowStatus),
    Top(top::ShowTop),
    Block(block::Block),
    Unblock(unblock::Unblock),
    Blocks(blocks::ListBlocks),
    Connections(connections::ListConnections),
    Events(events::Events),
    Capture(capture::Capture),
    Debug(debug::Debug),
    Explain(explain::Explain),
    Recommend(recommend::Recommend),
    Simulate(simulate::Simulate),
    Detach(detach::Detach),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Runs the command line and says how the process ends.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = agent::serve_metrics(&arguments) {
        return code;
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are "errors" too; clap prints each where it belongs and knows the status.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Cli { global, command } = cli;
    let result = match command {
        Command::Run(command) => command.execute(&global),
        Command::Check(command) => command.execute(&global),
        Command::Reload(command) => command.execute(&global),
        Command::Apply(command) => command.execute(&global),
        Command::Confirm(command) => command.execute(&global),
        Command::Status(command) => command.execute(&global),
        Command::Top(command) => command.execute(&global),
        Command::Block(command) => command.execute(&global),
        Command::Unblock(command) => command.execute(&global),
        Command::Blocks(command) => command.execute(&global),
        Command::Connections(command) => command.execute(&global),
        Command::Events(command) => command.execute(&global),
        Command::Capture(command) => command.execute(&global),
        Command::Debug(command) => command.execute(&global),
        Command::Explain(command) => command.execute(&global),
        Command::Recommend(command) => command.execute(&global),
        Command::Simulate(command) => command.execute(&global),
        Command::Detach(command) => command.execute(&global),
        Command::Completions(command) => command.execute(),
        Command::Man(command) => command.execute(),
    };
    result.unwrap_or_else(|error| report(&error))
}
