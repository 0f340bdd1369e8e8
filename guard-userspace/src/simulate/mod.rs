//! A capture through the decision of a policy, without a kernel.

mod capture;
mod tally;

use std::io::Read;

use guard_common::Address;
use guard_common::observe::{Observer, Step};
use guard_common::parse::Kind;
use serde::Serialize;

use crate::memory::Memory;
use crate::plan::Plan;
use capture::Capture;
use tally::Tally;

pub use capture::CaptureError;
pub use tally::{CountedVerdict, SourceTally};

/// What a policy would have made of a capture.
#[derive(Clone, Debug, Serialize)]
pub struct Simulation {
    pub packets: u64,
    pub bytes: u64,
    /// Time between the first and the last packet.
    pub seconds: f64,
    /// The same counts as the metrics of a guard that saw this traffic.
    pub verdicts: Vec<CountedVerdict>,
    /// By source, the one with the most dropped packets first.
    pub sources: Vec<SourceTally>,
}

/// Runs a capture (pcap or pcapng, Ethernet) through `plan`. The capture's own time is the clock of its limits; no source has open
/// connections or blocks at its beginning.
///
/// # Errors
/// When the capture cannot be read, with the number of the packet.
pub fn run(plan: Plan, capture: impl Read) -> Result<Simulation, CaptureError> {
    let names = plan.services.iter().map(|service| (service.id, service.name.clone())).collect();
    let mut memory = Memory::new(plan);
    let mut tally = Tally::new(names);
    for packet in Capture::open(capture)? {
        let packet = packet?;
        let mut source = Source(None);
        // The clock of a limit starts at boot; a capture's may be at any time, so it is moved to a second after "boot".
        let verdict = memory.judge(&packet, packet.at + START, &mut source);
        tally.add(verdict, source.0, packet.original_length, packet.at);
    }
    Ok(tally.finish())
}

/// 0 is the time of a source that was never seen.
const START: u64 = 1_000_000_000;

/// Notes the source of a packet.
struct Source(Option<Address>);

impl Observer for Source {
    fn step(&mut self, step: Step) {
        if let Step::Parsed(Ok(Kind::Segment(_) | Kind::OtherIp | Kind::Fragment), headers) = step {
            self.0 = Some(headers.source);
        }
    }
}
