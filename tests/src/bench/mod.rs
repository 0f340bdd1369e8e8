//! What guard costs: `cargo xtask bench`.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`cost`] | nanoseconds a packet, with small and with full tables, against a bare `XDP_DROP` |
//! | [`filters`] | guard and what people use instead, on hosts |
//! | [`flood`] | a flood of strangers, against guard and against what people use instead |
//! | [`load`] | how long a million blocks and a hundred thousand prefixes take until they are live |
//! | [`memory`] | what the kernel takes for the tables |
//! | [`preallocation`] | a table of blocks that is allocated at once against one that grows |
//! | [`spread`] | medians and quartiles |
//! | `strangers` | frames of strangers, and the wires for them |
//!
//! All of it runs on one CPU, in rounds that are interleaved: what disturbs one case disturbs its neighbours, too, so ratios hold where
//! nanoseconds do not.

pub mod cost;
pub mod filters;
pub mod flood;
pub mod load;
pub mod memory;
pub mod preallocation;
pub mod spread;
mod strangers;

use std::fs;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread on the last of its CPUs: interrupts prefer the first.
///
/// # Errors
/// When the kernel refuses.
pub fn stay_on_one_cpu() -> Result<()> {
    let all = sched_getaffinity(Pid::from_raw(0)).context("cannot count the CPUs")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| all.is_set(*cpu).unwrap_or(false));
    let mut here = CpuSet::new();
    here.set(last.context("there is no CPU")?).context("no such CPU")?;
    sched_setaffinity(Pid::from_raw(0), &here).context("cannot stay on one CPU")
}

/// The machine, and whether somebody else uses it at this moment.
pub fn machine() -> String {
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        found.trim_matches([' ', '\t', ':']).to_owned()
    };
    let kernel = line("/proc/sys/kernel/osrelease", "");
    let load = line("/proc/loadavg", "").split(' ').next().unwrap_or_default().to_owned();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpus = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {kernel}, {cpus} CPUs, {}; load {load}", line("/proc/cpuinfo", "model name"))
}
