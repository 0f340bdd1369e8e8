//! Checked, copying reads of the frame that XDP was given.

use aya_ebpf::programs::XdpContext;
use guard_common::Packet;

use crate::word;

/// The frame: its first buffer lies between `start` and `end`.
pub struct Frame {
    start: usize,
    end: usize,
    length: usize,
}

impl Frame {
    /// `length` counts all buffers of the frame.
    #[inline(always)]
    pub fn new(ctx: &XdpContext, length: usize) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), length }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.start + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: the bytes lie within the packet, as the verifier checks again at load.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn forget(offset: usize) -> usize {
        word::forget(offset as u64) as usize
    }
}
