//! Floods, against guard and against what people use instead.
//!
//! Each filter has a host of its own at the end of a wire, with the same list of allowed prefixes. One CPU sends frames and, in the interrupts
//! between, receives and drops them, so the time of a frame is that of both; with a bare `XDP_DROP` it is what no filter can save.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::cost::Size;
use super::filters::{Filter, Kind};
use super::spread::Spread;
use super::stay_on_one_cpu;
use super::strangers::{self, received, wire};
use crate::bpf::generator::Generator;
use crate::net::{Host, Network};

/// What a filter cost.
#[derive(Clone, Debug)]
pub struct Row {
    pub filter: &'static str,
    pub nanoseconds: Spread,
    /// Over the bare drop of the same round: times as much, and nanoseconds more.
    pub ratio: Spread,
    pub more: Spread,
}

/// Who floods, and what is in the way. The number of each filter is that of its wire, too; the first is what the others are held against.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    of: Of,
    filters: &'static [Kind],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Half a million of them
    Strangers,
    /// One that is allowed, but not to send that much
    Client,
}

impl Flood {
    pub const STRANGERS: Self = Self {
        of: Of::Strangers,
        filters: &[
            Kind::BareDrop,
            Kind::Guard,
            Kind::XdpFilter,
            Kind::NftablesIngress,
            Kind::NftablesInput,
            Kind::IptablesInput,
            Kind::IptablesRaw,
        ],
    };
    pub const CLIENT: Self = Self {
        of: Of::Client,
        filters: &[
            Kind::BareDrop,
            Kind::GuardLimit,
            Kind::NftablesLimit,
            Kind::HashlimitInput,
            Kind::HashlimitRaw,
        ],
    };

    /// Measures all filters, round by round.
    ///
    /// # Errors
    /// When a tool is missing, a filter lets too much through or the network loses some.
    pub fn measure(self, size: Size, rounds: u32, packets: u32) -> Result<Vec<Row>> {
        let network = Network::new()?;
        let sender = network.host("sender", 100, &[])?;
        let numbers = 0..self.filters.len();
        let host = |number| network.host("filter", 101 + number as u8, &[]);
        let hosts: Vec<Host> = numbers.clone().map(host).collect::<Result<_>>()?;
        for (number, host) in hosts.iter().enumerate() {
            wire(&sender, &format!("wire{number}"), host)?;
        }
        let installed = self.filters.iter().zip(&hosts).map(|(kind, host)| kind.install(host, size));
        let _filters: Vec<Filter<'_>> = installed.collect::<Result<_>>()?;
        let interfaces = sender.enter(|| {
            let index = |number| if_nametoindex(format!("wire{number}").as_str()).context("no such wire");
            numbers.map(index).collect::<Result<Vec<_>>>()
        })?;
        let answered_before = hosts.iter().map(answered).collect::<Result<Vec<_>>>()?;
        let frames = self.of.frames();
        let generator = self.of.generator()?;
        let mut measured = vec![Vec::new(); hosts.len()];
        // The first round warms up.
        for round in 0..=rounds {
            for (wire, (kind, measured)) in self.filters.iter().zip(&mut measured).enumerate() {
                let before = received(&hosts[wire])?;
                let took = sender.enter(|| {
                    stay_on_one_cpu()?;
                    let begun = Instant::now();
                    // One call: to begin and to end takes the kernel tens of milliseconds.
                    generator.send(&frames[round as usize % frames.len()], interfaces[wire], packets)?;
                    Ok(begun.elapsed())
                })?;
                let count = received(&hosts[wire])? - before;
                ensure!(count > u64::from(packets) * 9 / 10, "{}: {count} of {packets} arrived", kind.name());
                if round > 0 {
                    measured.push(took.as_nanos() as f64 / count as f64);
                }
            }
        }
        let may_pass = self.of.may_pass(u64::from(packets) * u64::from(rounds + 1));
        for ((kind, host), before) in self.filters.iter().zip(&hosts).zip(answered_before) {
            let passed = answered(host)? - before;
            ensure!(passed <= may_pass, "{}: {passed} SYNs came through", kind.name());
        }
        Ok(self.rows(measured))
    }

    fn rows(self, measured: Vec<Vec<f64>>) -> Vec<Row> {
        let bare = measured.first().cloned().unwrap_or_default();
        let row = |(filter, nanoseconds): (&Kind, Vec<f64>)| {
            let held =
                |of: fn((&f64, &f64)) -> f64| Spread::of(nanoseconds.iter().zip(&bare).map(of).collect());
            Row {
                filter: filter.name(),
                ratio: held(|(above, below)| above / below),
                more: held(|(above, below)| above - below),
                nanoseconds: Spread::of(nanoseconds.clone()),
            }
        };
        self.filters.iter().zip(measured).map(row).collect()
    }
}

impl Of {
    fn frames(self) -> Vec<Vec<u8>> {
        match self {
            Self::Strangers => strangers::frames(),
            Self::Client => vec![strangers::frame_of_a_client()],
        }
    }

    fn generator(self) -> Result<Generator> {
        match self {
            Self::Strangers => Generator::new(),
            Self::Client => Generator::of_one_source(),
        }
    }

    /// How many of so many SYNs may come through.
    const fn may_pass(self, sent: u64) -> u64 {
        match self {
            Self::Strangers => 0,
            // A ten-thousandth, at a million a second; with room for the burst and for a slow machine.
            Self::Client => sent / 1000,
        }
    }
}

/// How many answers TCP has sent.
fn answered(host: &Host) -> Result<u64> {
    let (_, text) = host.output("cat", &["/proc/net/snmp"])?;
    let sent = text.lines().filter(|line| line.starts_with("Tcp:")).nth(1);
    // The place of OutRsts: nothing listens, so each SYN is answered by one.
    sent.and_then(|line| line.split(' ').nth(14)?.parse().ok()).context("the kernel does not count")
}
