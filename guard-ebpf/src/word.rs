//! Atomic words in map values. `core` has no compare-and-swap for BPF, so these are the instructions themselves.

use core::arch::asm;

use guard_common::gcra::Word;

/// Returns `number`, of which the verifier knows nothing any longer: it does not follow a number through a change of its byte order; two
/// make none.
#[inline(always)]
pub fn forget(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: the instructions touch nothing but the register.
    unsafe { asm!("{0} = be64 {0}", "{0} = be64 {0}", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// Sets bits of a 32-bit word in a map value, and returns what it was.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    let before: u64;
    // SAFETY: the caller names a valid word; the instruction touches nothing else.
    unsafe {
        asm!(
            "w0 = atomic_fetch_or((u32 *)({word} + 0), w0)",
            word = in(reg) word,
            inlateout("r0") u64::from(bits) => before,
        );
    }
    before as u32
}

/// A 64-bit word in a map value.
#[derive(Clone, Copy)]
pub struct MapWord(*mut u64);

impl MapWord {
    /// # Safety
    /// `word` is an aligned word of a map value and the program does not keep it past its own run.
    #[inline(always)]
    pub unsafe fn new(word: *mut u64) -> Self {
        Self(word)
    }
}

impl Word for MapWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: `new` asks for a valid word; other CPUs change it only as a whole.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        let seen: u64;
        // SAFETY: as in `load`; the instruction touches nothing else.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0,
                new = in(reg) new,
                inlateout("r0") current => seen,
            );
        }
        if seen == current { Ok(()) } else { Err(seen) }
    }

    #[inline(always)]
    fn add(&self, amount: u64) {
        // SAFETY: as in `load`; the instruction touches nothing else.
        unsafe {
            asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) self.0, amount = in(reg) amount);
        }
    }
}
