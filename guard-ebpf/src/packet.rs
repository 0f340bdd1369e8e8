//! Checked, copying reads of the frame that XDP was given.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use guard_common::Packet;
use guard_common::packet::MAX_HEADER_OFFSET;

use crate::word;

/// The frame: its first buffer lies between `start` and `end`. `FRAGS`: there may be more of them.
pub struct Frame<const FRAGS: bool> {
    start: usize,
    end: usize,
    ctx: *mut xdp_md,
}

impl<const FRAGS: bool> Frame<FRAGS> {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), ctx: ctx.ctx }
    }

    /// The same in a function that was given the kernel's own context.
    #[inline(always)]
    pub fn of(ctx: *mut xdp_md) -> Self {
        Self::new(&XdpContext::new(ctx))
    }
}

impl<const FRAGS: bool> Packet for Frame<FRAGS> {
    #[inline(always)]
    fn length(&self) -> usize {
        if FRAGS {
            // SAFETY: the helper only reads the context that the kernel gave to this program.
            return unsafe { bpf_xdp_get_buff_len(self.ctx) } as usize;
        }
        self.first_buffer()
    }

    #[inline(always)]
    fn first_buffer(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = address_of(self.start, offset);
        if start + N > self.end {
            return None;
        }
        let mut bytes = [0; N];
        let mut at = 0;
        // SAFETY: the bytes lie within the packet, as the verifier checks again at load.
        unsafe {
            while at + 8 <= N {
                bytes[at..at + 8].copy_from_slice(&u64_at(start + at).to_ne_bytes());
                at += 8;
            }
            if at + 4 <= N {
                bytes[at..at + 4].copy_from_slice(&u32_at(start + at).to_ne_bytes());
                at += 4;
            }
            if at + 2 <= N {
                bytes[at..at + 2].copy_from_slice(&u16_at(start + at).to_ne_bytes());
                at += 2;
            }
            if at < N {
                bytes[at] = ((start + at) as *const u8).read();
            }
        }
        Some(bytes)
    }

    #[inline(always)]
    fn forget(offset: usize) -> usize {
        word::forget(offset as u64) as usize
    }
}

/// The most of an offset that `address_of` looks at: more than any offset of a header has.
const OFFSETS: usize = 0xfff;
const _: () = assert!(MAX_HEADER_OFFSET <= OFFSETS);

/// The address of `offset`, which is at most [`MAX_HEADER_OFFSET`]. The bound is made here once more, in the register that is added: of one
/// that was kept on the stack meanwhile, verifiers as that of Linux 6.1 forget that it was compared.
#[inline(always)]
fn address_of(start: usize, offset: usize) -> usize {
    let mut address = offset;
    // SAFETY: the instructions touch nothing but the register.
    unsafe {
        asm!(
            "{0} &= {offsets}",
            "{0} += {start}",
            inout(reg) address,
            start = in(reg) start,
            offsets = const OFFSETS,
            options(pure, nomem, nostack)
        );
    }
    address
}

/// Keeps an address in one register: what the verifier learns of it there it does not know of the same sum, made a second time.
#[inline(always)]
pub fn hold(address: usize) -> usize {
    let mut address = address;
    // SAFETY: the instruction touches nothing but the register.
    unsafe { asm!("{0} = {0}", inout(reg) address, options(pure, nomem, nostack)) };
    address
}

/// Words at addresses that need not be aligned. For the compiler, such a word on this target is so many bytes; for the kernel it is a word
/// wherever the machine can read it.
///
/// # Safety
/// The word lies within the frame.
macro_rules! word_at {
    ($name:ident, $word:ty, $load:literal) => {
        #[inline(always)]
        pub unsafe fn $name(address: usize) -> $word {
            let word: u64;
            // SAFETY: the instruction only reads, and the verifier checks where.
            unsafe { asm!($load, out(reg) word, in(reg) address, options(pure, readonly, nostack)) };
            word as $word
        }
    };
}

word_at!(u64_at, u64, "{0} = *(u64 *)({1} + 0)");
word_at!(u32_at, u32, "{0} = *(u32 *)({1} + 0)");
word_at!(u16_at, u16, "{0} = *(u16 *)({1} + 0)");
