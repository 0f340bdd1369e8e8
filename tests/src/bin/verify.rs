//! Loads the programs into the running kernel, prints what they cost and holds that against the committed budget.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use guard_userspace::datapath::probe::ProgramSize;
use guard_userspace::datapath::{Datapath, Options};
use serde::Deserialize;

#[derive(Parser)]
#[command(name = "guard-verify", about)]
struct Arguments {
    /// The committed budget
    #[arg(long, value_name = "FILE", default_value = "guard-ebpf/budget.toml")]
    budget: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    translated: u32,
    verified: u32,
    stack: u32,
    #[expect(dead_code, reason = "guard-instructions holds frames against it")]
    executed: toml::Table,
}

fn main() -> Result<ExitCode> {
    let Arguments { budget: file } = Arguments::parse();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let budget: Budget =
        toml::from_str(&text).with_context(|| format!("{} is not a budget", file.display()))?;
    let sizes = Datapath::open(&Options::default())?.sizes()?;
    println!("  program       translated    verified  stack  machine code");
    for ProgramSize { name, translated, verified, stack, machine_code } in &sizes {
        println!("  {name:<12}  {translated:>10}  {verified:>10}  {stack:>5}  {machine_code:>6} bytes");
    }
    println!("  {:<12}  {:>10}  {:>10}  {:>5}", "budget", budget.translated, budget.verified, budget.stack);
    let over = |size: &ProgramSize| {
        size.translated > budget.translated || size.verified > budget.verified || size.stack > budget.stack
    };
    if sizes.iter().any(over) {
        println!(
            "over the budget of {}: make the program smaller, or raise the budget with a reason",
            file.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
