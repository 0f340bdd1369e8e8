//! The program in the kernel, one frame at a time, and the same policy on the host.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use guard_common::abi::{Block, Counter, End, ServiceId};
use guard_common::{Action, Packet, Verdict};
use guard_userspace::datapath::{Capacities, Datapath, Options};
use guard_userspace::memory::Memory;
use guard_userspace::plan::Plan;
use guard_userspace::{config, plan};
use ipnet::IpNet;

/// When the frames arrive: both worlds' clocks stand still here.
pub const NOW: u64 = 1_000_000_000_000;

/// Compiles a policy file.
///
/// # Errors
/// When the policy is not right.
pub fn plan(policy: &str) -> Result<Plan> {
    let checked = config::parse(policy, "test.toml")?;
    Ok(plan::compile(&checked.policy, &BTreeMap::new())?)
}

/// The program, loaded and attached nowhere.
pub struct Kernel {
    pub datapath: Datapath,
    services: Vec<ServiceId>,
    counted: BTreeMap<u32, (Verdict, Counter)>,
}

impl Kernel {
    /// # Errors
    /// When the kernel or the privileges do not suffice.
    pub fn new(fixed_time: Option<u64>) -> Result<Self> {
        let capacities = Capacities { blocks: 4096, sources: 1 << 17, connections: 4096 };
        Self::with(&Options { capacities, fixed_time, ..Options::default() })
    }

    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(options: &Options) -> Result<Self> {
        let datapath = Datapath::open(options)
            .context("the tests of the program need root and a kernel that guard runs on")?;
        Ok(Self { datapath, services: Vec::new(), counted: BTreeMap::new() })
    }

    /// # Errors
    /// When the tables do not take the policy.
    pub fn publish(&mut self, plan: &Plan) -> Result<()> {
        self.datapath.maps_mut().publish(plan)?;
        self.services = plan.services.iter().map(|service| service.id).collect();
        self.counted = self.counters()?;
        Ok(())
    }

    /// # Errors
    /// When the tables do not take the blocks.
    pub fn block(&mut self, blocks: &[(IpNet, Block)]) -> Result<()> {
        self.datapath.maps_mut().write_blocks(blocks)?;
        let host =
            self.datapath.maps().blocks()?.iter().filter(|(_, block)| block.host_until != End::NONE).count();
        Ok(self.datapath.maps_mut().set_host_blocks(host as u64)?)
    }

    /// The verdict of one frame, as the program returns it and as it counts it.
    ///
    /// # Errors
    /// When the two disagree, or not exactly one counter has grown by exactly this frame.
    pub fn judge(&mut self, frame: &[u8]) -> Result<Verdict> {
        let action = self.datapath.run_frame(frame)?;
        let after = self.counters()?;
        let mut grown = after.iter().filter(|(index, now)| self.counted.get(index) != Some(now));
        let (Some((index, (verdict, now))), None) = (grown.next(), grown.next()) else {
            bail!("not exactly one counter has changed");
        };
        let before = self.counted.get(index).map_or(Counter::default(), |(_, counter)| *counter);
        ensure!(now.packets == before.packets + 1, "{verdict:?}: {now:?} after {before:?}");
        ensure!(now.bytes == before.bytes + frame.len() as u64, "{verdict:?}: {now:?} after {before:?}");
        ensure!(action == returned(*verdict), "the program returned {action:?} and counted {verdict:?}");
        let verdict = *verdict;
        self.counted = after;
        Ok(verdict)
    }

    /// All counters that the policy can reach.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<u32, (Verdict, Counter)>> {
        Ok(self.datapath.maps().counters(&self.services)?)
    }
}

/// A frame as a test run shows it to the program: of one that is longer than a page allows, the first buffer and its length.
pub struct Buffered<'a>(pub &'a [u8]);

impl Buffered<'_> {
    /// A page without the room that the kernel keeps before and behind the bytes (`bpf_prog_test_run_xdp`).
    const FIRST: usize = 4096 - 256 - 320;
}

impl Packet for Buffered<'_> {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn first_buffer(&self) -> usize {
        self.0.len().min(Self::FIRST)
    }

    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0[..self.first_buffer()].copy(offset)
    }
}

/// What the kernel is told for a verdict.
pub fn returned(verdict: Verdict) -> Action {
    match verdict.action {
        Action::Pass | Action::WouldDrop => Action::Pass,
        Action::Drop => Action::Drop,
    }
}

/// The same policy and blocks on the host.
pub fn host(plan: &Plan, blocks: &[(IpNet, Block)]) -> Memory {
    let mut memory = Memory::new(plan.clone());
    for (net, block) in blocks {
        memory.block(*net, *block);
    }
    memory
}
