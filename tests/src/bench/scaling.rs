//! What a second CPU gives: packets of one source, whose limiter both of them change, and of many.
//!
//! Two threads, each on a CPU of its own, against one of them alone, in turn. What two CPUs can give at all depends on the machine, whose CPUs may
//! be the two halves of one core: the bare drop tells.
//!
//! A test run enters its program into the kernel's dispatcher, and takes it out at the end, each time with a wait for all CPUs (kernel/bpf/dispatcher.c):
//! more than the run takes. So each program is attached to an interface as well, for which it stays there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use guard_common::Reason;
use guard_userspace::datapath::Options;
use nix::net::if_::if_nametoindex;

use super::cost::Effort;
use super::spread::Spread;
use crate::bpf::random_sources::{RandomSources, Range, bare_drop};
use crate::bpf::{self, Program};
use crate::cpu;
use crate::frame::Frame;
use crate::kernel::{self, Kernel};
use crate::net::{Host, Network};

/// Millions of packets a second.
#[derive(Clone, Debug)]
pub struct Scaling {
    pub packets: &'static str,
    pub one: Spread,
    pub two: Spread,
    /// Two over one, round by round.
    pub gain: Spread,
}

/// Of the limiter that is held against the clock: so many packets a second.
const RATE: u32 = 1_000_000;
/// Without a packet for longer than this, nothing could be exact.
const BURST: u32 = RATE / 10;
const EXACT_FOR: Duration = Duration::from_secs(1);
/// Packets between two looks at the clock.
const PIECE: u32 = 10_000;

const SOURCE: &str = "10.0.0.1";
/// So many sources as there are in 10.0.0.0/16.
const SOURCES: Range = Range { first: 0x0a00_0000, count: 1 << 16, shift: 0 };

/// Measures all kinds of packets.
///
/// # Errors
/// When there are no two CPUs, or the kernel refuses something.
pub fn measure(Effort { rounds, packets }: Effort) -> Result<Vec<Scaling>> {
    let cpus = two()?;
    let network = Network::new()?;
    let within = kernel(10_000_000, 1_000_000_000)?;
    let over = kernel(1, 1)?;
    let [within, over] = [within.datapath.program()?, over.datapath.program()?];
    let bare = bare_drop(within.multi_buffer)?;
    let many = RandomSources::before(within.descriptor, within.multi_buffer, SOURCES)?;
    let programs: [(&str, BorrowedFd<'_>); 4] = [
        ("bare XDP_DROP", Program::as_fd(&bare)),
        ("one source, within its limit", within.descriptor),
        ("one source, over its limit", over.descriptor),
        ("65,536 sources, within their limits", many.as_fd()),
    ];
    let _attached = attach(&network, programs.map(|(_, program)| program))?;
    let frame = Frame::segment(SOURCE, 8000).build();
    let mut measured = vec![(Vec::new(), Vec::new(), Vec::new()); programs.len()];
    for round in 0..rounds {
        for ((_, program), (one, two, gain)) in programs.iter().zip(&mut measured) {
            let alone = rate(*program, &frame, packets, &cpus[round as usize % 2..][..1])?;
            let both = rate(*program, &frame, packets, &cpus)?;
            one.push(alone);
            two.push(both);
            gain.push(both / alone);
        }
    }
    let rows = programs.iter().zip(measured).map(|((packets, _), (one, two, gain))| Scaling {
        packets,
        one: Spread::of(one),
        two: Spread::of(two),
        gain: Spread::of(gain),
    });
    Ok(rows.collect())
}

/// How many packets of one source two CPUs let in, over what its limit allows in the time that it took.
///
/// # Errors
/// When there are no two CPUs, or the kernel refuses something.
pub fn exactness(rounds: u32) -> Result<Spread> {
    let cpus = two()?;
    let network = Network::new()?;
    let frame = Frame::segment(SOURCE, 8000).build();
    let round = || -> Result<f64> {
        // A new one each time, whose burst is whole.
        let kernel = kernel(RATE, BURST)?;
        let program = kernel.datapath.program()?.descriptor;
        let _attached = attach(&network, [program])?;
        let took = side_by_side(&cpus, || {
            let begun = Instant::now();
            while begun.elapsed() < EXACT_FOR {
                bpf::time(program, &frame, PIECE)?;
            }
            Ok(())
        })?;
        let count = |reason| {
            let counters = kernel.counters()?;
            let of_reason = counters.values().filter(|(verdict, _)| verdict.reason == reason);
            anyhow::Ok(of_reason.map(|(_, counter)| counter.packets).sum::<u64>() as f64)
        };
        ensure!(count(Reason::PacketRate)? > 0.0, "the CPUs are too slow for the limit");
        Ok(count(Reason::Allowed)? / (f64::from(BURST) + f64::from(RATE) * took.as_secs_f64()))
    };
    Ok(Spread::of((0..rounds).map(|_| round()).collect::<Result<_>>()?))
}

fn kernel(rate: u32, burst: u32) -> Result<Kernel> {
    let mut kernel = Kernel::with(&Options::default())?;
    let policy = format!(
        "[[service]]\nname = \"a\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\nlimits = \"x\"\n\
         [limits.x]\npackets_per_second = {rate}\npacket_burst = {burst}\n"
    );
    kernel.publish(&kernel::plan(&policy)?)?;
    Ok(kernel)
}

/// The hosts whose interfaces the programs are attached to, for as long as they are held.
fn attach<const N: usize>(network: &Network, programs: [BorrowedFd<'_>; N]) -> Result<Vec<(Host, OwnedFd)>> {
    let attached = programs.into_iter().enumerate().map(|(number, program)| {
        let host = network.host("cpu", number as u8 + 1, &[])?;
        let link = host.enter(|| bpf::attach(program, if_nametoindex("eth0").context("no interface")?))?;
        Ok((host, link))
    });
    attached.collect()
}

/// Millions of packets a second.
fn rate(program: BorrowedFd<'_>, frame: &[u8], packets: u32, cpus: &[usize]) -> Result<f64> {
    let took = side_by_side(cpus, || bpf::time(program, frame, packets).map(drop))?;
    Ok(f64::from(packets) * cpus.len() as f64 / took.as_secs_f64() / 1e6)
}

/// Does it on each of these CPUs at the same time. Returns how long the last one took.
fn side_by_side(cpus: &[usize], work: impl Fn() -> Result<()> + Sync) -> Result<Duration> {
    let start = Barrier::new(cpus.len());
    let on = |cpu| {
        let stays = cpu::stay_on(cpu);
        // All of them come here, or the others would wait for ever.
        start.wait();
        stays?;
        let begun = Instant::now();
        work()?;
        anyhow::Ok((begun, Instant::now()))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().map(|cpu| scope.spawn(move || on(*cpu))).collect();
        let times: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<_>>()?;
        let begun = times.iter().map(|(begun, _)| *begun).min().context("no CPU")?;
        let ended = times.iter().map(|(_, ended)| *ended).max().context("no CPU")?;
        Ok(ended - begun)
    })
}

fn two() -> Result<[usize; 2]> {
    let cpus = cpu::all()?;
    let two = cpus.last_chunk().copied();
    two.context("to compare one CPU with two, there must be two")
}
