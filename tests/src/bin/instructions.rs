//! Counts the machine's instructions that each frame takes, prints them and holds them against the committed budget.
//!
//! For a virtual machine whose clock goes on by a nanosecond with each instruction (`-icount shift=0` of qemu): what a test run takes is then
//! a number of instructions, and always the same. Anywhere else it is a time, and says nothing here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use guard_tests::bench::cost::Size;
use guard_tests::bench::frames;
use guard_tests::bpf::instruction::{R0, exit, set};
use guard_tests::bpf::random_sources::bare_drop;
use guard_tests::bpf::{self, Program};
use guard_tests::frame::Frame;
use serde::Deserialize;

#[derive(Parser)]
#[command(name = "guard-instructions", about)]
struct Arguments {
    /// The committed budget
    #[arg(long, value_name = "FILE", default_value = "guard-ebpf/budget.toml")]
    budget: PathBuf,
}

#[derive(Deserialize)]
struct Budget {
    /// By the name of the frame, over a bare drop.
    executed: BTreeMap<String, u32>,
}

const RUNS: u32 = 200;
/// The least of so many: a tick of the clock may come between, and of drops the first ones in a stretch of time are looked into.
const ATTEMPTS: u32 = 20;

fn main() -> Result<ExitCode> {
    let Arguments { budget: file } = Arguments::parse();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let Budget { executed: budget } =
        toml::from_str(&text).with_context(|| format!("{} is not a budget", file.display()))?;
    let mut kernel = frames::kernel(Size { blocks: 0, prefixes: 1 })?;
    let multi_buffer = kernel.datapath.program()?.multi_buffer;
    let bare = bare_drop(multi_buffer)?;
    calibrate(&bare, multi_buffer)?;
    let mut is_within = true;
    println!("  {:<32}  executed  budget", "");
    let cases = frames::cases();
    cases.iter().try_for_each(|case| case.check(&mut kernel))?;
    let unknown = budget.keys().find(|name| cases.iter().all(|case| case.name != **name));
    ensure!(unknown.is_none(), "there is no frame {unknown:?}");
    println!("  Linux {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    for case in &cases {
        let count = |program| least(program, &case.frame);
        let (below, of_frame) = (count(bare.as_fd())?, count(kernel.datapath.program()?.descriptor)?);
        let executed = of_frame.saturating_sub(below);
        let most = *budget.get(&case.name).with_context(|| format!("no budget for {:?}", case.name))?;
        println!("  {:<32}  {executed:>8}  {most:>6}", case.name);
        is_within &= executed <= most;
    }
    if !is_within {
        println!(
            "over the budget of {}: make the path shorter, or raise the budget with a reason",
            file.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the clock counts instructions: of a program that does so many more, exactly so many more.
fn calibrate(bare: &Program, multi_buffer: bool) -> Result<()> {
    const MORE: u32 = 1000;
    let mut longer = vec![set(R0, 1); MORE as usize];
    longer.extend([set(R0, 1), exit()]);
    let longer = Program::load(&longer, multi_buffer)?;
    let frame = Frame::segment("192.0.2.1", 9).build();
    let more = least(longer.as_fd(), &frame)?.saturating_sub(least(bare.as_fd(), &frame)?);
    ensure!(
        more.abs_diff(MORE) <= 2,
        "{MORE} instructions take {more} ns: this clock counts no instructions"
    );
    Ok(())
}

fn least(program: BorrowedFd<'_>, frame: &[u8]) -> Result<u32> {
    let counts = (0..ATTEMPTS).map(|_| bpf::time(program, frame, RUNS)).collect::<Result<Vec<_>>>()?;
    let least = *counts.iter().min().context("no attempt")?;
    let same = counts.iter().filter(|count| **count <= least + least / 100).count();
    ensure!(same > counts.len() / 4, "the counts differ, so they count no instructions: {counts:?}");
    Ok(least)
}
