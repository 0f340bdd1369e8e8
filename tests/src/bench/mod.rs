//! What guard costs: `cargo xtask bench`.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`control`] | how long blocks and policies take until they are obeyed, against ufw, nftables and ipset |
//! | [`cost`] | nanoseconds a packet, with small and with full tables, against a bare `XDP_DROP` |
//! | [`filters`] | guard and what people use instead, on hosts |
//! | [`flood`] | a flood of strangers, against guard and against what people use instead |
//! | [`frames`] | nanoseconds over a bare drop for each frame that matters, against xdp-filter and any program that is loaded |
//! | [`goodput`] | what allowed clients get while a flood runs |
//! | [`load`] | how long a million blocks and a hundred thousand prefixes take until they are live |
//! | [`memory`] | what the kernel takes for the tables |
//! | [`preallocation`] | a table of blocks that is allocated at once against one that grows |
//! | [`report`] | all of it as tables |
//! | [`scaling`] | what a second CPU gives, and whether limits stay exact on two |
//! | [`spread`] | medians and quartiles |
//! | `strangers` | frames of strangers, and the wires for them |
//! | [`table`] | tables: as text, as JSON and as a plot |
//!
//! What is timed in nanoseconds runs on one CPU, and all of it in rounds that are interleaved: what disturbs one case disturbs its neighbours, too, so ratios hold where
//! nanoseconds do not.

pub mod control;
pub mod cost;
pub mod filters;
pub mod flood;
pub mod frames;
pub mod goodput;
pub mod load;
pub mod memory;
pub mod preallocation;
pub mod report;
pub mod scaling;
pub mod spread;
mod strangers;
pub mod table;

use std::fs;

use anyhow::{Context, Result};

use crate::cpu;

/// Keeps this thread on the last of its CPUs: interrupts prefer the first.
///
/// # Errors
/// When the kernel refuses.
pub fn stay_on_one_cpu() -> Result<()> {
    cpu::stay_on(*cpu::all()?.last().context("there is no CPU")?)
}

/// Those of a host that is flooded, and of everything around it.
#[derive(Clone, Copy, Debug)]
struct Cpus {
    world: usize,
    host: usize,
}

impl Cpus {
    fn find() -> Result<Self> {
        let all = cpu::all()?;
        let [.., world, host] = all[..] else { anyhow::bail!("this needs two CPUs") };
        Ok(Self { world, host })
    }
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
