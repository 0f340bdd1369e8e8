//! On which CPU an interface is polled.
//!
//! A virtual wire has no interrupts: frames are received on the CPU that sends them. But the kernel can put interrupts off and poll by a timer instead
//! (`napi_defer_hard_irqs` and `gro_flush_timeout`, Linux 5.8), and the timer stays on the CPU on which it was begun. So the host's CPU
//! receives, every 50 µs and before all that runs there, as with a card that delays its interrupts as long; while it is behind, frames find the ring full.

use std::time::Duration;

use anyhow::Result;

use crate::net::{Host, feed};

const DELAY: Duration = Duration::from_micros(50);
/// Polls in a row that may find nothing: some seconds.
const IDLE_POLLS: u32 = 200_000;

/// `up0` of a host is polled by a timer, from the CPU on that it is next polled.
pub(super) struct Deferred<'a>(&'a Host);

impl<'a> Deferred<'a> {
    pub(super) fn begin(host: &'a Host) -> Result<Self> {
        let deferred = Self(host);
        set(host, IDLE_POLLS, DELAY)?;
        Ok(deferred)
    }
}

impl Drop for Deferred<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = set(self.0, 0, Duration::ZERO);
    }
}

fn set(host: &Host, idle_polls: u32, delay: Duration) -> Result<()> {
    let delay = delay.as_nanos();
    write(host, &format!("echo {idle_polls} > napi_defer_hard_irqs; echo {delay} > gro_flush_timeout"), "up0")
}

/// What an interface receives is handled by one CPU.
pub(super) fn steer(host: &Host, interface: &str, cpu: usize) -> Result<()> {
    // Masks are written in words of 32 bits.
    let words = ",00000000".repeat(cpu / 32);
    write(host, &format!("echo {:x}{words} > queues/rx-0/rps_cpus", 1_u32 << (cpu % 32)), interface)
}

/// Runs a script among the files of an interface, which only a /sys of its own namespace has.
fn write(host: &Host, script: &str, interface: &str) -> Result<()> {
    let script = format!("set -e; mount -t sysfs sysfs /sys; cd /sys/class/net/{interface}; {script}");
    feed(host.command("unshare").args(["--mount", "sh", "-c", &script]), "")
}
