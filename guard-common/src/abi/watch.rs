//! What somebody wants to see of dropped packets, and what they get.

use super::Sample;

/// What is wanted at this moment, see [`crate::watch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Watch {
    /// Until when, of which service and for which reasons; 0: nobody wants anything.
    pub word: u64,
    /// The sources that are wanted: those that are this under the mask, IPv4 in its mapped form.
    pub source: [u8; 16],
    pub mask: [u8; 16],
}

/// How many more drops a CPU may show, and how many it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Allowance {
    /// The stretch of time that `left` is for.
    pub stretch: u64,
    pub left: u64,
    /// Past the allowance, since the map was made.
    pub skipped: u64,
    /// Within it, but nobody had read what was shown before: there was no room.
    pub lost: u64,
}

/// So much is shown of a frame. Ethernet, two tags, IPv6 with an extension header and TCP with all of its options fit, and so do the first
/// bytes behind IPv4 and TCP as most send them.
pub const SHOWN: usize = 128;

/// A frame that was dropped, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Captured {
    /// What is known of it. It stands for itself alone.
    pub drop: Sample,
    /// The index of the interface where it arrived.
    pub interface: u32,
    /// How many bytes of `bytes` are of the frame; what follows them is of others.
    pub shown: u32,
    pub bytes: [u8; SHOWN],
}

impl Captured {
    /// The beginning of the frame.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(..self.shown as usize).unwrap_or(&self.bytes)
    }
}
