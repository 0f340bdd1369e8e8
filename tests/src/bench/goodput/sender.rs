//! The flood.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use super::super::Cpus;
use super::super::strangers::frames;
use super::interrupts::Deferred;
use super::site::{Ends, WIRE};
use crate::bpf::generator::Generator;
use crate::bpf::paced::PacedGenerator;
use crate::cpu;

/// How often it is tried how fast the sender is, and with how many frames.
const TRIALS: u32 = 3;
const TRIAL: u32 = 1 << 20;
/// How often the sender looks at the clock before it is asked whether to stop: for less than half a second.
const LOOKS: u32 = 1 << 22;

pub(super) struct Sender {
    generator: Generator,
    frames: Vec<Vec<u8>>,
    cpus: Cpus,
}

/// What was sent.
pub(super) struct Sent {
    pub(super) frames: u64,
    pub(super) took: Duration,
}

impl Sender {
    pub(super) fn new(cpus: Cpus) -> Result<Self> {
        Ok(Self { generator: Generator::new()?, frames: frames(), cpus })
    }

    pub(super) const fn cpus(&self) -> Cpus {
        self.cpus
    }

    /// From now on the host's CPU receives.
    pub(super) fn interrupt<'a>(&self, ends: &'a Ends) -> Result<Deferred<'a>> {
        let deferred = Deferred::begin(&ends.host)?;
        // Received where it is sent; the timer begins there.
        ends.world.enter(|| {
            cpu::stay_on(self.cpus.host)?;
            self.generator.send(&self.frames[0], if_nametoindex(WIRE)?, 1)
        })?;
        Ok(deferred)
    }

    /// Frames a second that can be sent to each of the hosts.
    pub(super) fn fastest(&self, all: &[Ends]) -> Result<f64> {
        let mut slowest = f64::INFINITY;
        for ends in all {
            let _interrupts = self.interrupt(ends)?;
            let trials = (0..TRIALS).map(|_| self.trial(ends)).collect::<Result<Vec<_>>>()?;
            // What disturbs only makes it slower.
            slowest = slowest.min(trials.into_iter().fold(0.0, f64::max));
        }
        Ok(slowest)
    }

    fn trial(&self, ends: &Ends) -> Result<f64> {
        ends.world.enter(|| {
            cpu::stay_on(self.cpus.world)?;
            let begun = Instant::now();
            self.generator.send(&self.frames[0], if_nametoindex(WIRE)?, TRIAL)?;
            Ok(f64::from(TRIAL) / begun.elapsed().as_secs_f64())
        })
    }

    /// Sends so many frames a second until it is to stop, or for so long: longer than the clients may take.
    pub(super) fn send(&self, ends: &Ends, pace: f64, stop: &AtomicBool, at_most: Duration) -> Result<Sent> {
        let generator = PacedGenerator::new(pace)?;
        ends.world.enter(|| {
            cpu::stay_on(self.cpus.world)?;
            let interface = if_nametoindex(WIRE).context("no such wire")?;
            let begun = Instant::now();
            for frame in self.frames.iter().cycle() {
                if stop.load(Ordering::Relaxed) || begun.elapsed() > at_most {
                    break;
                }
                generator.run(frame, interface, LOOKS)?;
            }
            Ok(Sent { frames: generator.sent()?, took: begun.elapsed() })
        })
    }
}
