//! Keys, and the state that outlives a generation of the policy.

use super::policy::{destination_key, destination_of, service_key};
use super::{Rule, ServiceId};
use crate::Address;
use crate::epoch::Slot;

/// What every packet depends on. Only who changes tables writes it, one at a time; each word is changed as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct State {
    /// The live slot and the deadline of its confirmation, see [`crate::epoch`].
    pub epoch: u64,
    /// How many blocks have the scope `host`.
    pub host_blocks: u64,
    /// Counts the changes of rules and new blocks: what was remembered under another number is no longer true. (Of one who is blocked it is
    /// asked each time whether that holds, so the end of a block is no change.)
    pub changes: u64,
}

/// What a CPU has found out about an address at a service, if a rule lets it in: the rule, and whether a block keeps it out all the same. It spares
/// those who come again the tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing(u32);

impl Standing {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self(0);
    /// Beside the word of the rule, where that has nothing.
    const BLOCKED: u32 = u32::from_ne_bytes([0, 0, 1, 0]);

    #[inline(always)]
    pub const fn new(rule: Rule, is_blocked: bool) -> Self {
        Self(rule.word() | if is_blocked { Self::BLOCKED } else { 0 })
    }

    #[inline(always)]
    pub const fn of_word(word: u32) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// None if nothing is known.
    #[inline(always)]
    pub const fn rule(self) -> Option<Rule> {
        Rule::of_word(self.0 & !Self::BLOCKED)
    }

    /// A block was in force. It may have come to its end since.
    #[inline(always)]
    pub const fn is_blocked(self) -> bool {
        self.0 & Self::BLOCKED != 0
    }
}

/// A [`Standing`] as it is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Admitted {
    address: [u64; 2],
    /// [`State::changes`] before it was looked up.
    changes: u64,
    standing: u32,
    service: u8,
    slot: u8,
    padding: [u8; 2],
}

impl Admitted {
    /// Each CPU remembers so many, in places that follow from the address: some thousand clients find theirs, and 64 KiB stay in the cache.
    pub const PLACES: u32 = 1 << Self::PLACE_BITS;
    const PLACE_BITS: u32 = 11;

    #[inline(always)]
    pub const fn new(
        address: Address,
        slot: Slot,
        service: ServiceId,
        standing: Standing,
        changes: u64,
    ) -> Self {
        Self {
            address: address.words(),
            changes,
            standing: standing.word(),
            service: service.get(),
            slot: slot.index() as u8,
            padding: [0; 2],
        }
    }

    /// Where it is remembered. Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
    #[inline(always)]
    pub const fn place(address: Address, service: ServiceId) -> u32 {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let [high, low] = address.words();
        let mixed = (high ^ low ^ service.get() as u64).wrapping_mul(GOLDEN_RATIO);
        (mixed >> (u64::BITS - Self::PLACE_BITS)) as u32
    }

    /// What is known, if this is what is looked for and still true.
    #[inline(always)]
    pub const fn standing(&self, address: Address, slot: Slot, service: ServiceId, changes: u64) -> Standing {
        let [high, low] = address.words();
        let differs = (self.address[0] ^ high)
            | (self.address[1] ^ low)
            | (self.changes ^ changes)
            | (self.service ^ service.get()) as u64
            | (self.slot ^ slot.index() as u8) as u64;
        if differs == 0 { Standing::of_word(self.standing) } else { Standing::UNKNOWN }
    }

    /// Remembers another one here. One who is blocked does not take the place of somebody who is let in, or a flood of them would drive all
    /// of those out.
    #[inline(always)]
    pub const fn remember(&mut self, other: Self) {
        let (own, new) = (Standing::of_word(self.standing), Standing::of_word(other.standing));
        let is_let_in =
            self.changes == other.changes && own.word() != Standing::UNKNOWN.word() && !own.is_blocked();
        if !(new.is_blocked() && is_let_in) {
            *self = other;
        }
    }
}

/// Data part of a key of the IPv4 rules: the service, then the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct RuleKeyV4 {
    service: [u8; 4],
    address: [u8; 4],
}

/// Data part of a key of the IPv6 rules: the service, then the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct RuleKeyV6 {
    service: [u8; 4],
    address: [u8; 16],
}

/// Bits of a rule's key before its address.
pub const SERVICE_BITS: u32 = 32;

impl RuleKeyV4 {
    #[inline(always)]
    pub const fn new(service: ServiceId, address: [u8; 4]) -> Self {
        Self { service: service_key(service), address }
    }

    /// Of an address that the service is reached at.
    #[inline(always)]
    pub const fn of_destination(service: ServiceId, address: [u8; 4]) -> Self {
        Self { service: destination_key(service), address }
    }

    /// What it is a destination of, and the address, if it is one.
    pub fn destination(&self) -> Option<(ServiceId, [u8; 4])> {
        Some((destination_of(self.service)?, self.address))
    }
}

impl RuleKeyV6 {
    #[inline(always)]
    pub const fn new(service: ServiceId, address: [u8; 16]) -> Self {
        Self { service: service_key(service), address }
    }

    /// Of an address that the service is reached at.
    #[inline(always)]
    pub const fn of_destination(service: ServiceId, address: [u8; 16]) -> Self {
        Self { service: destination_key(service), address }
    }

    /// What it is a destination of, and the address, if it is one.
    pub fn destination(&self) -> Option<(ServiceId, [u8; 16])> {
        Some((destination_of(self.service)?, self.address))
    }
}

/// A source at a service: the address cut to the prefix that counts as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct SourceKey {
    address: [u8; 16],
    service: [u8; 4],
}

impl SourceKey {
    /// `service` and the masks of that service, see [`super::Service`].
    #[inline(always)]
    pub fn new(id: ServiceId, service: &super::Service, address: Address) -> Self {
        let address = address.masked(service.ipv4_mask(), service.ipv6_mask());
        Self { address: address.to_bytes(), service: service_key(id) }
    }

    pub fn address(&self) -> Address {
        Address::v6(self.address)
    }

    pub const fn service(&self) -> ServiceId {
        ServiceId::new(self.service[3])
    }

    #[inline(always)]
    pub(super) fn from_bytes(bytes: [u8; 20]) -> Self {
        let [address @ .., s0, s1, s2, s3] = bytes;
        Self { address, service: [s0, s1, s2, s3] }
    }

    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..].copy_from_slice(&self.service);
        bytes
    }
}

/// The limiter's state of one source at a service: theoretical arrival times, see [`crate::gcra`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Meter {
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
    /// Until when all that it sends is weighed, in nanoseconds of the boot clock; 0: it is not. See [`crate::drops`].
    pub suspected_until: u64,
}

/// What is counted for each verdict, on each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Class, LimitsId};

    #[test]
    fn what_is_remembered_is_of_one_address_at_one_service_until_something_changes() {
        let rule = Rule::new(Class::Allow, LimitsId::new(3));
        let (address, other) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]));
        let (service, changes) = (ServiceId::new(7), 5);
        for is_blocked in [false, true] {
            let standing = Standing::new(rule, is_blocked);
            assert_eq!((standing.rule(), standing.is_blocked()), (Some(rule), is_blocked));
            let admitted = Admitted::new(address, Slot::A, service, standing, changes);
            assert_eq!(admitted.standing(address, Slot::A, service, changes), standing);
        }
        let admitted = Admitted::new(address, Slot::A, service, Standing::new(rule, false), changes);
        for (address, slot, service, changes) in [
            (other, Slot::A, service, changes),
            (Address::v6([10; 16]), Slot::A, service, changes),
            (address, Slot::B, service, changes),
            (address, Slot::A, ServiceId::new(6), changes),
            (address, Slot::A, service, 6),
        ] {
            assert_eq!(admitted.standing(address, slot, service, changes), Standing::UNKNOWN);
        }
        let empty = Admitted::default();
        assert_eq!(empty.standing(Address::default(), Slot::A, ServiceId::NONE, 0), Standing::UNKNOWN);
        assert!(Standing::UNKNOWN.rule().is_none());
    }

    #[test]
    fn who_is_blocked_takes_nobodys_place_who_is_let_in() {
        let rule = Rule::new(Class::Allow, LimitsId::new(3));
        let of = |host, is_blocked, changes| {
            let address = Address::v4([10, 0, 0, host]);
            Admitted::new(address, Slot::A, ServiceId::new(7), Standing::new(rule, is_blocked), changes)
        };
        let (let_in, blocked, before) = (of(1, false, 5), of(2, true, 5), of(1, false, 4));
        for (place, comes, stays) in [
            (Admitted::default(), blocked, blocked),
            (before, blocked, blocked),
            (blocked, of(3, true, 5), of(3, true, 5)),
            (blocked, let_in, let_in),
            (let_in, of(3, false, 5), of(3, false, 5)),
            (let_in, blocked, let_in),
        ] {
            let mut found = place;
            found.remember(comes);
            assert_eq!(found, stays, "{comes:?} where {place:?} is");
        }
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let service = ServiceId::new(1);
        let networks: [fn(u16) -> Address; 3] = [
            |number| Address::v4([10, 0, (number >> 8) as u8, number as u8]),
            |number| Address::v4([10, (number >> 8) as u8, number as u8, 1]),
            |number| Address::of_words([0xfd00_0001_0000_0000 | u64::from(number), 1]),
        ];
        for network in networks {
            let mut taken = [false; Admitted::PLACES as usize];
            (0..512).for_each(|number| taken[Admitted::place(network(number), service) as usize] = true);
            let places = taken.iter().filter(|taken| **taken).count();
            // At random there would be about 453.
            assert!(places > 400, "512 addresses in {places} places");
        }
    }
}
