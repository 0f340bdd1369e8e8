//! The steps of a decision, for those who want to know.

use crate::abi::{End, Limits, LimitsId, Rule, ServiceId, SourceKey};
use crate::epoch::Slot;
use crate::parse::{Headers, Kind, Malformed};

/// One step that led to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Parsed(Result<Kind, Malformed>, Headers),
    /// The generation of the policy that judges.
    Policy(Slot),
    Service(Option<ServiceId>),
    /// The port is of this service, but the packet is for none of its destinations.
    Elsewhere(ServiceId),
    /// The rule of the longest prefix around the source.
    Rule(Option<Rule>),
    /// A block that is in force, and whether it is one of exactly this address.
    Block {
        exact: bool,
        until: End,
    },
    /// The limits of the source, and what its state is kept under.
    Limits(Limits, SourceKey),
    /// The number of these limits, and until when all that the source sends is weighed (see [`crate::drops`]).
    Source {
        limits: LimitsId,
        suspected_until: u64,
    },
    /// A limit that was asked, and its answer.
    Limit {
        limit: Limit,
        within: bool,
    },
    /// Concurrent connections of the source.
    Connections {
        open: u64,
        limit: u64,
    },
}

/// The limits that are rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Packets,
    Bytes,
    Connections,
}

/// Is told each step. `()` is told nothing, at no cost: that is the kernel's.
pub trait Observer {
    fn step(&mut self, step: Step);
}

impl Observer for () {
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}
