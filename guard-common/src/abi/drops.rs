//! What is noted of packets that are dropped: samples of them, and evidence against their sources.

use super::{ServiceId, SourceKey};
use crate::{Address, Reason};

/// How many drops a CPU may still look into, see [`crate::drops`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Budget {
    /// In the lower 16 bits, the how manieth drop from now, past those of `left`, is looked into and stands for all of them; 0 at first. Above, the
    /// stretch of time in which that is all there is to know of a drop: one word, so that a flood reads and writes no more.
    pub quiet: u64,
    /// The stretch that `left` is for.
    pub stretch: u64,
    pub left: u64,
    /// Not 0: somebody watches drops, or did when the stretch began. A copy, so that a flood asks in one place.
    pub watch: u64,
}

/// What was counted against a source at a service since a moment, for at most a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Evidence {
    /// Nanoseconds of the boot clock.
    pub since: u64,
    /// Packets of its established connections that no rule allows.
    pub refused: u64,
    /// Packets of its established connections over its limits, had it sent nothing else.
    pub limited: u64,
    /// Packets that belong to no connection of it: anybody may have sent them.
    pub unproven: u64,
    /// A limiter of its own for the packets of its established connections: theoretical arrival times, see [`crate::gcra`].
    pub packets: u64,
    pub bytes: u64,
    /// Not 0 once the agent was told.
    pub reported: u64,
}

/// What samples are taken of, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct SampleKey {
    address: [u8; 16],
    service: u8,
    reason: u8,
    padding: [u8; 2],
}

impl SampleKey {
    #[inline(always)]
    pub const fn of(sample: &Sample) -> Self {
        let Sample { source, service, reason, .. } = *sample;
        Self { address: source, service, reason, padding: [0; 2] }
    }
}

/// When a sample was taken last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Sampled {
    /// Nanoseconds of the boot clock.
    pub at: u64,
    /// Packets since.
    pub unreported: u64,
}

/// A packet that was dropped, or would be, and how many like it were since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Sample {
    /// Nanoseconds of the boot clock.
    pub at: u64,
    /// Packets of this source dropped for this reason since the sample before, this one included.
    pub packets: u64,
    pub source: [u8; 16],
    pub length: u32,
    pub source_port: u16,
    pub port: u16,
    /// What follows IP's headers, as IANA numbers it; 0 where that was not read.
    pub protocol: u8,
    pub service: u8,
    pub reason: u8,
    /// Not 0: the service only monitors, the packet has passed.
    pub passed: u8,
    /// Of TCP.
    pub flags: u8,
    pub padding: [u8; 3],
}

impl Sample {
    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::v6(self.source)
    }

    #[inline(always)]
    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service)
    }

    /// Nothing, if a later build wrote it.
    #[inline(always)]
    pub const fn reason(&self) -> Option<Reason> {
        Reason::of_number(self.reason)
    }
}

/// A source that went over a threshold of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Offence {
    /// Nanoseconds of the boot clock.
    pub at: u64,
    /// Since when `count` was counted; `at` for connections.
    pub since: u64,
    pub count: u64,
    pub source: SourceKey,
    kind: u32,
}

/// What a source has too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffenceKind {
    Connections,
    Refused,
    Limited,
}

impl Offence {
    const CONNECTIONS: u32 = 1;
    const REFUSED: u32 = 2;
    const LIMITED: u32 = 3;

    #[inline(always)]
    pub const fn new(kind: OffenceKind, source: SourceKey, count: u64, since: u64, at: u64) -> Self {
        let kind = match kind {
            OffenceKind::Connections => Self::CONNECTIONS,
            OffenceKind::Refused => Self::REFUSED,
            OffenceKind::Limited => Self::LIMITED,
        };
        Self { at, since, count, source, kind }
    }

    /// Nothing, if a later build wrote it.
    pub const fn kind(&self) -> Option<OffenceKind> {
        match self.kind {
            Self::CONNECTIONS => Some(OffenceKind::Connections),
            Self::REFUSED => Some(OffenceKind::Refused),
            Self::LIMITED => Some(OffenceKind::Limited),
            _ => None,
        }
    }
}

/// What the kernel could not tell or note, each with a counter on every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// A sample: the agent does not read fast enough, or not at all.
    Sample = 0,
    /// An offence, likewise.
    Offence = 1,
    /// A connection that is not counted: its table is full.
    Connection = 2,
    /// A connection too many, which stays open: as with samples.
    Surplus = 3,
}

impl Lost {
    pub const ALL: [Self; 4] = [Self::Sample, Self::Offence, Self::Connection, Self::Surplus];
    /// How many counters there are.
    pub const COUNT: u32 = 4;
}
