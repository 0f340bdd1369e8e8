//! What the kernel takes for the tables.

use std::fs;

use anyhow::{Context, Result};
use guard_common::abi::{Block, End};
use guard_userspace::datapath::{Capacities, Options};
use ipnet::{IpNet, Ipv4Net};

use super::cost::Size;
use crate::kernel::{self, Kernel};
use crate::large;

/// One table, or what was put into one.
#[derive(Clone, Debug)]
pub struct Memory {
    pub what: String,
    pub entries: u64,
    pub bytes: u64,
}

/// The tables as guard makes them without a word in the policy, by the kernel's accounts.
///
/// # Errors
/// When the kernel does not say.
pub fn of_tables(capacities: Capacities) -> Result<Vec<Memory>> {
    let kernel = Kernel::with(&Options { capacities, ..Options::default() })?;
    let memory = kernel.datapath.maps().memory()?;
    let row = |(name, bytes): (&'static str, u64)| Memory { what: name.into(), entries: 0, bytes };
    Ok(memory.into_iter().map(row).collect())
}

/// What the kernel's memory has grown by, as a whole: its accounts leave out what lies between the entries of a trie, and what its
/// allocator rounds up.
///
/// # Errors
/// When the tables do not take all of it.
pub fn of_prefixes(size: Size) -> Result<Vec<Memory>> {
    let mut kernel = Kernel::with(&Options::default())?;
    let plan = kernel::plan(&large::policy(size.prefixes))?;
    let mut rows = Vec::new();
    let mut row = |what: &str, before: u64, entries: u32| -> Result<()> {
        let bytes = kernel_memory()?.saturating_sub(before);
        rows.push(Memory { what: what.into(), entries: u64::from(entries), bytes });
        Ok(())
    };
    let before = kernel_memory()?;
    kernel.publish(&plan)?;
    row("prefixes of the policy", before, size.prefixes)?;
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    let net = |number: u32| IpNet::V4(Ipv4Net::new_assert((number << 8).into(), 24));
    let prefixes: Vec<_> = (0..size.prefixes).map(|number| (net(number), forever)).collect();
    let before = kernel_memory()?;
    kernel.datapath.maps_mut().write_blocks(&prefixes)?;
    row("blocked prefixes", before, size.prefixes)?;
    Ok(rows)
}

/// All that the kernel has allocated for itself.
fn kernel_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kibibytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_matches([':', ' ', 'k', 'B']).parse().ok()
    };
    let parts = ["SUnreclaim", "VmallocUsed", "Percpu"];
    let sum: Option<u64> = parts.into_iter().map(kibibytes).sum();
    Ok(sum.context("/proc/meminfo does not say what the kernel takes")? << 10)
}
