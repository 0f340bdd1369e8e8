//! Nanoseconds a packet.
//!
//! Each case is a packet to the program as it is loaded (`BPF_PROG_TEST_RUN`), from one source that stays the same ("hot": all that it looks
//! up is in the cache) or from a new one each time, which a program before it sees to. It is run over small tables (one prefix allowed, nobody blocked) and over full ones,
//! and held against a program that only drops, behind the same program.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, ensure};
use guard_common::Reason::{self, Allowed, Blocked, NotAllowed, Unguarded};
use guard_userspace::datapath::{Capacities, Options};

use super::spread::Spread;
use crate::bpf::random_sources::{RandomSources, Range, bare_drop};
use crate::bpf::{self, Program};
use crate::frame::Frame;
use crate::kernel::{self, Kernel};
use crate::large;

/// How much is put into the full tables.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub blocks: u32,
    pub prefixes: u32,
}

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: u32,
    /// Packets of each case in each round.
    pub packets: u32,
}

/// What one kind of packet costs.
#[derive(Clone, Debug)]
pub struct Cost {
    pub packet: &'static str,
    pub hot: bool,
    /// With small tables; none for a packet that there is not.
    pub small: Option<Measured>,
    pub full: Measured,
    /// Full over small, round by round.
    pub growth: Option<Spread>,
}

#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub nanoseconds: Spread,
    /// Over the bare drop of the same round.
    pub ratio: Spread,
}

/// A kind of packet: its port, where it comes from (none: it is not there) and what becomes of it.
struct Case {
    packet: &'static str,
    port: u16,
    small: Option<Range>,
    full: Range,
    reason: Reason,
    /// Whether a block of the whole host exists, so that packets to other ports are looked up too.
    host_block: bool,
}

/// The number of the source that stays the same.
const SAMPLE: u32 = 777;

/// Any address at all: what a flood forges.
const FORGED: Range = Range { first: 0, count: 0, shift: 0 };

fn cases(size: Size) -> Vec<Case> {
    let between = large::strangers(size.prefixes);
    let case =
        |packet, port, small, full, reason| Case { packet, port, small, full, reason, host_block: false };
    let unguarded = case("to another port", 9, Some(FORGED), FORGED, Unguarded);
    vec![
        case("to another port", 9, Some(FORGED), FORGED, Unguarded),
        Case { packet: "to another port, one host blocked", host_block: true, ..unguarded },
        case("stranger, forged", 8000, Some(FORGED), FORGED, NotAllowed),
        case("stranger, between prefixes", 8000, Some(between), between, NotAllowed),
        case("allowed", 8000, Some(large::blocked_range(100_000)), large::clients(size.prefixes), Allowed),
        case("blocked", 8000, None, large::blocked_range(size.blocks), Blocked),
    ]
}

/// Measures all cases.
///
/// # Errors
/// When the kernel refuses something, or packets do not become what the case says.
pub fn measure(size: Size, effort: Effort) -> Result<Vec<Cost>> {
    super::stay_on_one_cpu()?;
    let mut small = tables(0, 0)?;
    let mut full = tables(size.prefixes, size.blocks)?;
    let multi_buffer = full.datapath.program()?.multi_buffer;
    let bare = bare_drop(multi_buffer)?;
    let mut costs = Vec::new();
    for case in cases(size) {
        for kernel in [&mut small, &mut full] {
            kernel.datapath.maps_mut().set_host_blocks(u64::from(case.host_block))?;
        }
        for hot in [true, false] {
            let before = [&small, &full].map(|kernel| judged(kernel, case.reason));
            costs.push(cost(&case, hot, &bare, [&small, &full], effort)?);
            for (kernel, before) in [&small, &full].into_iter().zip(before) {
                ensure_reason(&case, before?, judged(kernel, case.reason)?)?;
            }
        }
    }
    Ok(costs)
}

/// What an allowed packet costs that is each time from another one of so many sources with state.
///
/// # Errors
/// As [`measure`].
pub fn tracked(sources: &[u32], effort: Effort) -> Result<Vec<Measured>> {
    super::stay_on_one_cpu()?;
    let room = sources.iter().copied().max().unwrap_or_default().next_power_of_two();
    let capacities = Capacities { sources: room, ..Capacities::default() };
    let mut kernel = Kernel::with(&Options { capacities, ..Options::default() })?;
    kernel.publish(&kernel::plan(&large::policy(0))?)?;
    let program = kernel.datapath.program()?;
    let bare = bare_drop(program.multi_buffer)?;
    let of_so_many = |count: &u32| {
        let timer =
            |of| Timer::new(of, program.multi_buffer, *count == 1, 8000, large::blocked_range(*count));
        let (bare, guard) = (timer(bare.as_fd())?, timer(program.descriptor)?);
        // Until nearly each of them has its state.
        guard.time(count.saturating_mul(4))?;
        let mut measured = Rounds::default();
        for _ in 0..effort.rounds {
            measured.bare.push(bare.time(effort.packets)?);
            measured.full.push(guard.time(effort.packets)?);
        }
        Ok(measured.full())
    };
    sources.iter().map(of_so_many).collect()
}

fn tables(prefixes: u32, blocks: u32) -> Result<Kernel> {
    let mut kernel = Kernel::with(&Options::default())?;
    kernel.publish(&kernel::plan(&large::policy(prefixes))?)?;
    kernel.datapath.maps_mut().write_blocks(&large::blocks(blocks))?;
    Ok(kernel)
}

fn cost(case: &Case, hot: bool, bare: &Program, [small, full]: [&Kernel; 2], effort: Effort) -> Result<Cost> {
    let multi_buffer = full.datapath.program()?.multi_buffer;
    let timer = |program, sources| Timer::new(program, multi_buffer, hot, case.port, sources);
    let small = case.small.map(|sources| timer(small.datapath.program()?.descriptor, sources)).transpose()?;
    let bare = timer(bare.as_fd(), case.full)?;
    let full = timer(full.datapath.program()?.descriptor, case.full)?;
    let mut measured = Rounds::default();
    for _ in 0..effort.rounds {
        measured.bare.push(bare.time(effort.packets)?);
        measured.small.extend(small.as_ref().map(|small| small.time(effort.packets)).transpose()?);
        measured.full.push(full.time(effort.packets)?);
    }
    Ok(measured.cost(case.packet, hot))
}

/// A program, and the frame that it gets.
struct Timer<'a> {
    program: BorrowedFd<'a>,
    /// For a new source each time: what goes before the program.
    sources: Option<RandomSources>,
    frame: Vec<u8>,
}

impl<'a> Timer<'a> {
    fn new(program: BorrowedFd<'a>, multi_buffer: bool, hot: bool, port: u16, range: Range) -> Result<Self> {
        let frame = Frame::segment(&range.address(SAMPLE).to_string(), port).build();
        let before = || RandomSources::before(program, multi_buffer, range);
        Ok(Self { program, sources: (!hot).then(before).transpose()?, frame })
    }

    fn time(&self, packets: u32) -> Result<f64> {
        let program = self.sources.as_ref().map_or(self.program, AsFd::as_fd);
        Ok(f64::from(bpf::time(program, &self.frame, packets)?))
    }
}

/// How many packets got a verdict of this reason, and how many any.
fn judged(kernel: &Kernel, reason: Reason) -> Result<(u64, u64)> {
    let counters = kernel.counters()?;
    let sum = |of: &dyn Fn(Reason) -> bool| {
        let counters = counters.values().filter(|(verdict, _)| of(verdict.reason));
        counters.map(|(_, counter)| counter.packets).sum()
    };
    Ok((sum(&|of| of == reason), sum(&|_| true)))
}

/// A case must be what it is called, but for the few forged addresses that happen to be allowed.
fn ensure_reason(case: &Case, before: (u64, u64), after: (u64, u64)) -> Result<()> {
    let (of_reason, all) = (after.0 - before.0, after.1 - before.1);
    ensure!(
        of_reason >= all / 100 * 98,
        "{}: {of_reason} of {all} packets are {:?}",
        case.packet,
        case.reason
    );
    Ok(())
}

/// What was measured, round by round.
#[derive(Default)]
struct Rounds {
    bare: Vec<f64>,
    small: Vec<f64>,
    full: Vec<f64>,
}

impl Rounds {
    fn cost(&self, packet: &'static str, hot: bool) -> Cost {
        let has_small = !self.small.is_empty();
        Cost {
            packet,
            hot,
            small: has_small.then(|| self.over_bare(&self.small)),
            full: self.full(),
            growth: has_small.then(|| over(&self.full, &self.small)),
        }
    }

    fn full(&self) -> Measured {
        self.over_bare(&self.full)
    }

    fn over_bare(&self, nanoseconds: &[f64]) -> Measured {
        Measured { nanoseconds: Spread::of(nanoseconds.to_vec()), ratio: over(nanoseconds, &self.bare) }
    }
}

fn over(above: &[f64], below: &[f64]) -> Spread {
    Spread::of(above.iter().zip(below).map(|(above, below)| above / below.max(1.0)).collect())
}
