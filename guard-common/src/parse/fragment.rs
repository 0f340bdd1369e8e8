//! What the headers say of fragments, read a second time and only for these.

use super::{ipv4, ipv6};
use crate::Packet;
use crate::abi::FragmentKey;
use crate::packet::{forget, read};

/// Which part of a packet a frame holds.
///
/// A number rather than an enum: the verifier then follows one path for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part(u8);

impl Part {
    pub const WHOLE: Self = Self(0);
    /// The beginning, with the ports; others follow.
    pub const FIRST: Self = Self(1);
    pub const LATER: Self = Self(2);

    #[inline(always)]
    pub(super) const fn first_if(others_follow: bool) -> Self {
        Self(others_follow as u8)
    }

    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }

    #[inline(always)]
    pub const fn of_number(number: u8) -> Self {
        Self(number)
    }
}

/// Which packet a fragment is of, whose IP header begins at `start`.
#[inline(always)]
pub fn fragment_key(packet: &(impl Packet + ?Sized), start: usize) -> Option<FragmentKey> {
    let start = forget(packet, start);
    match read(packet, start).map(|[first]: [u8; 1]| first >> 4) {
        Some(4) => ipv4::fragment_key(packet, start),
        Some(6) => ipv6::fragment_key(packet, start),
        _ => None,
    }
}
