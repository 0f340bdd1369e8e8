//! A flood of strangers, against guard and against what people use instead.
//!
//! Each filter has a host of its own at the end of a wire, with the same list of allowed prefixes. One CPU sends frames of random
//! sources and, in the interrupts between, receives and drops them, so the time of a frame is that of both; with a bare `XDP_DROP` it is what no
//! filter can save.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;

use super::cost::Size;
use super::filters::{Filter, Kind};
use super::spread::Spread;
use super::stay_on_one_cpu;
use super::strangers::{frames, received, wire};
use crate::bpf::generator::Generator;
use crate::net::{Host, Network};

/// What a filter cost.
#[derive(Clone, Debug)]
pub struct Row {
    pub filter: &'static str,
    pub nanoseconds: Spread,
    /// Over the bare drop of the same round.
    pub ratio: Spread,
}

/// The number of each is that of its wire, too. The first is what the others are held against.
const FILTERS: [Kind; 7] = [
    Kind::BareDrop,
    Kind::Guard,
    Kind::XdpFilter,
    Kind::NftablesIngress,
    Kind::NftablesInput,
    Kind::IptablesInput,
    Kind::IptablesRaw,
];

/// Measures all filters, round by round.
///
/// # Errors
/// When a tool is missing, a filter lets a frame through or the network loses some.
pub fn measure(size: Size, rounds: u32, packets: u32) -> Result<Vec<Row>> {
    let network = Network::new()?;
    let sender = network.host("sender", 100, &[])?;
    let hosts: Vec<Host> = (0..FILTERS.len())
        .map(|number| network.host("filter", 101 + number as u8, &[]))
        .collect::<Result<_>>()?;
    for (number, host) in hosts.iter().enumerate() {
        wire(&sender, &format!("wire{number}"), host)?;
    }
    let filters: Vec<Filter<'_>> =
        FILTERS.iter().zip(&hosts).map(|(kind, host)| kind.install(host, size)).collect::<Result<_>>()?;
    let generator = Generator::new()?;
    let frames = frames();
    let interfaces = sender.enter(|| {
        let index = |number| if_nametoindex(format!("wire{number}").as_str()).context("no such wire");
        (0..FILTERS.len()).map(index).collect::<Result<Vec<_>>>()
    })?;
    let answered_before = hosts.iter().map(answered).collect::<Result<Vec<_>>>()?;
    let mut measured = vec![Vec::new(); filters.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (wire, (filter, measured)) in filters.iter().zip(&mut measured).enumerate() {
            let before = received(&hosts[wire])?;
            let took = sender.enter(|| {
                stay_on_one_cpu()?;
                let begun = Instant::now();
                for frame in &frames {
                    generator.send(frame, interfaces[wire], packets / frames.len() as u32)?;
                }
                Ok(begun.elapsed())
            })?;
            let count = received(&hosts[wire])? - before;
            ensure!(
                count > u64::from(packets) * 9 / 10,
                "{}: {count} of {packets} arrived",
                filter.kind.name()
            );
            if round > 0 {
                measured.push(took.as_nanos() as f64 / count as f64);
            }
        }
    }
    for ((filter, host), before) in filters.iter().zip(&hosts).zip(answered_before) {
        let answered = answered(host)? - before;
        ensure!(answered == 0, "{}: {answered} SYNs of strangers came through", filter.kind.name());
    }
    Ok(rows(&filters, measured))
}

fn rows(filters: &[Filter<'_>], measured: Vec<Vec<f64>>) -> Vec<Row> {
    let bare = measured.first().cloned().unwrap_or_default();
    let row = |(filter, nanoseconds): (&Filter<'_>, Vec<f64>)| {
        let ratio = nanoseconds.iter().zip(&bare).map(|(above, below)| above / below).collect();
        Row { filter: filter.kind.name(), nanoseconds: Spread::of(nanoseconds), ratio: Spread::of(ratio) }
    };
    filters.iter().zip(measured).map(row).collect()
}

/// How many answers TCP has sent.
fn answered(host: &Host) -> Result<u64> {
    let (_, text) = host.output("cat", &["/proc/net/snmp"])?;
    let sent = text.lines().filter(|line| line.starts_with("Tcp:")).nth(1);
    // The place of OutRsts: nothing listens, so each SYN is answered by one.
    sent.and_then(|line| line.split(' ').nth(14)?.parse().ok()).context("the kernel does not count")
}
