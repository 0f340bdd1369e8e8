//! The tables of one generation of the policy.

use super::{LimitsId, ServiceId};
use crate::epoch::Slot;
use crate::gcra::Rate;
use crate::parse::Protocol;

/// Entries of the port table for both slots.
pub const PORT_WORDS: u32 = 2 * WORDS_PER_SLOT;
const WORDS_PER_SLOT: u32 = 2 * WORDS_PER_PROTOCOL;
const WORDS_PER_PROTOCOL: u32 = (1 << 16) / 8;

/// Eight neighbouring ports of one protocol: for each, the number of its service.
pub type PortWord = [u8; 8];

/// Index of the word of a port, and its place in it.
#[inline(always)]
pub const fn port_word(slot: Slot, protocol: Protocol, port: u16) -> (u32, usize) {
    let protocol = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => WORDS_PER_PROTOCOL,
    };
    (slot.index() * WORDS_PER_SLOT + protocol + (port >> 3) as u32, (port & 7) as usize)
}

/// What is known of a generation of the policy as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Policy {
    flags: u64,
    /// Counts the policies that were made live; the higher of the two slots is the newer.
    pub generation: u64,
    pub thresholds: Thresholds,
}

/// From what on a source is reported to the agent; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Thresholds {
    /// More connections at once than this.
    pub connections: u64,
    /// So many packets within a minute that no rule allows.
    pub refused: u64,
    /// So many packets within a minute over the limits.
    pub limited: u64,
}

impl Policy {
    const ENFORCES: u64 = 1;

    /// `enforces` is false if every service only monitors: then nothing may be dropped.
    pub const fn new(generation: u64, enforces: bool, thresholds: Thresholds) -> Self {
        Self { flags: if enforces { Self::ENFORCES } else { 0 }, generation, thresholds }
    }

    #[inline(always)]
    pub const fn enforces(&self) -> bool {
        self.flags & Self::ENFORCES != 0
    }
}

/// The name of a service, filled up with zeros. Only the agent reads it: a counter of the kernel outlives
/// the agent that knew the policy.
pub type ServiceName = [u8; 64];

/// A guarded service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Service {
    flags: u32,
    /// What of an IPv4 address counts as one source.
    ipv4_mask: [u8; 4],
    /// What of an IPv6 address counts as one source.
    ipv6_mask: [u8; 16],
}

impl Service {
    const MONITOR: u32 = 1;
    const HAS_DESTINATIONS: u32 = 2;

    /// Prefix lengths past the width of an address are taken as the full width.
    pub fn new(monitor: bool, ipv4_prefix: u8, ipv6_prefix: u8) -> Self {
        let ipv4 = u32::MAX.checked_shl(32 - u32::from(ipv4_prefix.min(32))).unwrap_or(0);
        let ipv6 = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
        Self {
            flags: if monitor { Self::MONITOR } else { 0 },
            ipv4_mask: ipv4.to_be_bytes(),
            ipv6_mask: ipv6.to_be_bytes(),
        }
    }

    /// The service is only what is for its destinations, which the tries of the rules hold under keys of their own.
    #[must_use]
    pub const fn with_destinations(mut self) -> Self {
        self.flags |= Self::HAS_DESTINATIONS;
        self
    }

    #[inline(always)]
    pub const fn has_destinations(&self) -> bool {
        self.flags & Self::HAS_DESTINATIONS != 0
    }

    #[inline(always)]
    pub const fn monitors(&self) -> bool {
        self.flags & Self::MONITOR != 0
    }

    #[inline(always)]
    pub const fn ipv4_mask(&self) -> [u8; 4] {
        self.ipv4_mask
    }

    #[inline(always)]
    pub const fn ipv6_mask(&self) -> [u8; 16] {
        self.ipv6_mask
    }
}

/// What the policy says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Deny,
    Allow,
    Trusted,
}

/// The rule of the longest prefix around a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rule {
    class: u8,
    limits: u8,
    padding: [u8; 2],
}

impl Rule {
    const DENY: u8 = 1;
    const ALLOW: u8 = 2;
    const TRUSTED: u8 = 3;

    pub const fn new(class: Class, limits: LimitsId) -> Self {
        let class = match class {
            Class::Deny => Self::DENY,
            Class::Allow => Self::ALLOW,
            Class::Trusted => Self::TRUSTED,
        };
        Self { class, limits: limits.get(), padding: [0; 2] }
    }

    /// The rule as a number, which is not 0.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes([self.class, self.limits, 0, 0])
    }

    /// 0 is no rule.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Option<Self> {
        let [class, limits, _, _] = word.to_ne_bytes();
        if word == 0 { None } else { Some(Self { class, limits, padding: [0; 2] }) }
    }

    /// A class that is not known here denies.
    #[inline(always)]
    pub const fn class(self) -> Class {
        match self.class {
            Self::ALLOW => Class::Allow,
            Self::TRUSTED => Class::Trusted,
            _ => Class::Deny,
        }
    }

    #[inline(always)]
    pub const fn limits(self) -> LimitsId {
        LimitsId::new(self.limits)
    }
}

/// The limits of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Limits {
    pub packets: Rate,
    pub bytes: Rate,
    pub connections: Rate,
    /// Concurrent connections; 0 means no limit.
    pub max_connections: u64,
}

/// What rules and state of a service are keyed with; four bytes keep the address behind it aligned.
pub(super) const fn service_key(service: ServiceId) -> [u8; 4] {
    [0, 0, 0, service.get()]
}

/// What the destinations of a service are keyed with, in the tries of the rules.
pub(super) const fn destination_key(service: ServiceId) -> [u8; 4] {
    [0, 0, 1, service.get()]
}

/// The service of such a key; none of one of its rules.
pub(super) fn destination_of(key: [u8; 4]) -> Option<ServiceId> {
    let service = ServiceId::new(key[3]);
    (key == destination_key(service)).then_some(service)
}
