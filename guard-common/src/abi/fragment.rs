//! What is known of the fragments of a packet.

use crate::{Address, Verdict};

/// What tells the fragments of one packet from those of others (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FragmentKey {
    source: [u64; 2],
    destination: [u64; 2],
    identification: u32,
    /// Of IPv4; 0 for IPv6, whose fragments are told apart without it.
    protocol: u8,
    padding: [u8; 3],
}

impl FragmentKey {
    #[inline(always)]
    pub const fn new(source: Address, destination: Address, identification: u32, protocol: u8) -> Self {
        let (source, destination) = (source.words(), destination.words());
        Self { source, destination, identification, protocol, padding: [0; 3] }
    }

    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::of_words(self.source)
    }
}

/// What became of a first fragment, or that none was seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Fate {
    /// Until when the kernel may wait for the rest, in nanoseconds of the boot clock.
    pub until: u64,
    /// [`Verdict::word`] of the first fragment; 0 before it has come.
    pub verdict: u32,
    /// The last bits of the generation of the policy that judged it.
    pub generation: u32,
    /// What came before the first fragment and was let through: an [`Owed`].
    pub owed: u64,
}

impl Fate {
    #[inline(always)]
    pub const fn verdict(&self) -> Option<Verdict> {
        Verdict::of_word(self.verdict)
    }
}

/// Fragments for which their service has not been charged yet: bytes in the lower half, packets above. One word, since several CPUs add to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owed(u64);

impl Owed {
    const PACKETS_AT: u32 = 32;
    /// More than the bound of unknown fragments lets through for one packet; the limiter's arithmetic has room for that.
    const MOST_PACKETS: u64 = 1023;
    const MOST_BYTES: u64 = (1 << 20) - 1;

    #[inline(always)]
    pub const fn one(bytes: u32) -> Self {
        Self(1 << Self::PACKETS_AT | bytes as u64)
    }

    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn packets(self) -> u64 {
        let packets = self.0 >> Self::PACKETS_AT;
        if packets > Self::MOST_PACKETS { Self::MOST_PACKETS } else { packets }
    }

    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        let bytes = self.0 & u32::MAX as u64;
        if bytes > Self::MOST_BYTES { Self::MOST_BYTES } else { bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_adds_up_and_has_a_most() {
        let sum = Owed::one(1500).word() + Owed::one(40).word();
        assert_eq!((Owed::of_word(sum).packets(), Owed::of_word(sum).bytes()), (2, 1540));
        let much = Owed::of_word(u64::MAX);
        assert_eq!((much.packets(), much.bytes()), (1023, (1 << 20) - 1));
        assert_eq!(Owed::default(), Owed::of_word(0));
    }

    #[test]
    fn a_key_has_its_source() {
        let (source, destination) = (Address::v4([10, 1, 2, 3]), Address::v4([10, 0, 0, 1]));
        let key = FragmentKey::new(source, destination, 7, 17);
        assert_eq!(key.source(), source);
        assert_ne!(key, FragmentKey::new(source, destination, 7, 6));
        assert_ne!(key, FragmentKey::new(destination, source, 7, 17));
    }
}
