//! `cargo xtask demo`: guard at work on a small network.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use guard_tests::demo::{Options, play};

#[derive(Parser, Debug)]
#[command(name = "guard-demo", about = "Guard at work on a small network of namespaces; needs root")]
struct Arguments {
    /// The guard to show
    #[arg(long, value_name = "PATH")]
    guard: PathBuf,
    /// Serve the model with this command in place of the test server; it must listen on port 8000
    #[arg(long, value_name = "COMMAND")]
    server_command: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let test_server = arguments.guard.with_file_name("guard-streaming-server");
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("GUARD_BIN", &arguments.guard) };
    let options = Options { server_command: arguments.server_command, test_server };
    let right = play(&options).context("the demo did not come to its end")?;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
