//! What was decided, and where it is counted.

use crate::abi::ServiceId;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Pass,
    Drop,
    /// The service is in monitor mode: the packet passes and is counted as one that would be dropped.
    WouldDrop,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::WouldDrop];

    /// The label `verdict` of the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would_drop",
        }
    }
}

/// Why. A packet has exactly one reason: the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    NotIp = 0,
    Unguarded = 1,
    Fragment = 2,
    Trusted = 3,
    Allowed = 4,
    Blocked = 5,
    NotAllowed = 6,
    Denied = 7,
    PacketRate = 8,
    ByteRate = 9,
    ConnectionRate = 10,
    MaxConnections = 11,
    Malformed = 12,
    /// A later fragment of a packet that nothing is known of, past the bound of such.
    FragmentRate = 13,
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::NotIp,
        Self::Unguarded,
        Self::Fragment,
        Self::Trusted,
        Self::Allowed,
        Self::Blocked,
        Self::NotAllowed,
        Self::Denied,
        Self::PacketRate,
        Self::ByteRate,
        Self::ConnectionRate,
        Self::MaxConnections,
        Self::Malformed,
        Self::FragmentRate,
    ];

    /// The label `reason` of the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Unguarded => "unguarded",
            Self::Fragment => "fragment",
            Self::Trusted => "trusted",
            Self::Allowed => "allowed",
            Self::Blocked => "blocked",
            Self::NotAllowed => "not_allowed",
            Self::Denied => "denied",
            Self::PacketRate => "packet_rate",
            Self::ByteRate => "byte_rate",
            Self::ConnectionRate => "connection_rate",
            Self::MaxConnections => "max_connections",
            Self::Malformed => "malformed",
            Self::FragmentRate => "fragment_rate",
        }
    }

    /// The reason of this number.
    #[inline(always)]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::NotIp),
            1 => Some(Self::Unguarded),
            2 => Some(Self::Fragment),
            3 => Some(Self::Trusted),
            4 => Some(Self::Allowed),
            5 => Some(Self::Blocked),
            6 => Some(Self::NotAllowed),
            7 => Some(Self::Denied),
            8 => Some(Self::PacketRate),
            9 => Some(Self::ByteRate),
            10 => Some(Self::ConnectionRate),
            11 => Some(Self::MaxConnections),
            12 => Some(Self::Malformed),
            13 => Some(Self::FragmentRate),
            _ => None,
        }
    }

    /// Whether a packet with this reason is dropped where the policy is enforced.
    pub const fn drops(self) -> bool {
        match self {
            Self::NotIp | Self::Unguarded | Self::Fragment | Self::Trusted | Self::Allowed => false,
            Self::Blocked
            | Self::NotAllowed
            | Self::Denied
            | Self::PacketRate
            | Self::ByteRate
            | Self::ConnectionRate
            | Self::MaxConnections
            | Self::Malformed
            | Self::FragmentRate => true,
        }
    }
}

/// The decision about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    pub action: Action,
    pub reason: Reason,
    /// The service that the packet was for, or [`ServiceId::NONE`].
    pub service: ServiceId,
}

/// Number of counters: each service (and "none") has one for every pair of reason and mode.
pub const COUNTERS: u32 = ServiceId::COUNT * COUNTERS_PER_SERVICE;

const COUNTERS_PER_SERVICE: u32 = 32;
const WOULD_DROP: u32 = 16;

/// Of the word of a verdict: what is done, and where the rest begins.
const PASS: u32 = 1;
const DROP: u32 = 2;
const REASON_AT: u32 = 8;
const SERVICE_AT: u32 = 16;

impl Verdict {
    /// Index of the counter of this verdict, less than [`COUNTERS`].
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        let monitored = match self.action {
            Action::Pass | Action::Drop => 0,
            Action::WouldDrop => WOULD_DROP,
        };
        self.service.get() as u32 * COUNTERS_PER_SERVICE + monitored + self.reason as u32
    }

    /// The verdict as a number, which is not 0.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        let action = match self.action {
            Action::Pass => PASS,
            Action::Drop => DROP,
            Action::WouldDrop => DROP | PASS,
        };
        action | (self.reason as u32) << REASON_AT | (self.service.get() as u32) << SERVICE_AT
    }

    /// None for 0, and for what a later build wrote.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Option<Self> {
        let action = match word & (PASS | DROP) {
            PASS => Action::Pass,
            DROP => Action::Drop,
            0 => return None,
            _ => Action::WouldDrop,
        };
        let service = ServiceId::new((word >> SERVICE_AT) as u8);
        match Reason::of_number((word >> REASON_AT) as u8) {
            Some(reason) => Some(Self { action, reason, service }),
            None => None,
        }
    }

    /// All verdicts that a packet for `service` can get.
    pub fn possible(service: ServiceId) -> impl Iterator<Item = Self> {
        let of_action = move |action| {
            let fits = move |reason: &Reason| reason.drops() != matches!(action, Action::Pass);
            Reason::ALL.into_iter().filter(fits).map(move |reason| Self { action, reason, service })
        };
        Action::ALL.into_iter().flat_map(of_action)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_number() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of_number(reason as u8), Some(reason));
        }
        assert_eq!(Reason::of_number(Reason::ALL.len() as u8), None);
    }

    #[test]
    fn every_possible_verdict_has_a_counter_of_its_own() {
        let mut seen = HashSet::new();
        for service in 0..=u8::MAX {
            for verdict in Verdict::possible(ServiceId::new(service)) {
                assert!(verdict.counter() < COUNTERS, "{verdict:?}");
                assert_eq!(Verdict::of_word(verdict.word()), Some(verdict));
                assert!(seen.insert(verdict.counter()), "{verdict:?} shares its counter");
            }
        }
        assert_eq!(seen.len(), 256 * (5 + 9 + 9));
    }
}
