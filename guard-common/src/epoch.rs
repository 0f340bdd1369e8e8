//! Which of the two generations of the policy is live.
//!
//! A new policy is written into the slot that is not live and made live by one store of this word. While a
//! policy waits for its confirmation the word also holds the deadline; past it every reader returns to the
//! other slot by itself, whether an agent lives or not.

/// One of the two places where a policy lies.
///
/// A number rather than an enum: the verifier then follows one path for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    pub const A: Self = Self(0);
    pub const B: Self = Self(1);

    #[inline(always)]
    pub const fn of_index(index: u32) -> Self {
        Self(index & 1)
    }

    /// 0 or 1.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 1
    }

    #[inline(always)]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// The word that names the live slot: bit 0 is the slot, the others are the deadline for its confirmation in
/// nanoseconds of the boot clock, 0 for none. The deadline is exact to 2 ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub const fn word(self) -> u64 {
        self.0
    }

    /// `slot` is live for good.
    pub const fn confirmed(slot: Slot) -> Self {
        Self(slot.index() as u64)
    }

    /// `slot` is live until `deadline`, then the other one is again.
    pub const fn until(slot: Slot, deadline: u64) -> Self {
        // A deadline of 0 would read as "none"; at the boot of the machine it is over in any case.
        let deadline = if deadline < 2 { 2 } else { deadline };
        Self((deadline & !1) | slot.index() as u64)
    }

    #[inline(always)]
    pub const fn deadline(self) -> Option<u64> {
        match self.0 & !1 {
            0 => None,
            deadline => Some(deadline),
        }
    }

    /// The live slot; asks for the time only while a confirmation is awaited.
    #[inline(always)]
    pub fn live(self, now: impl FnOnce() -> u64) -> Slot {
        let applied = Slot((self.0 & 1) as u32);
        match self.deadline() {
            Some(deadline) if now() >= deadline => applied.other(),
            _ => applied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_slot_is_live_at_any_time_without_a_clock() {
        for slot in [Slot::A, Slot::B] {
            assert_eq!(Epoch::confirmed(slot).live(|| unreachable!()), slot);
        }
    }

    #[test]
    fn an_unconfirmed_slot_is_live_until_its_deadline() {
        for (deadline, now, back) in [
            (1000, 999, false),
            (1000, 1000, true),
            (1001, 1000, true),
            (0, 5, true),
            (u64::MAX, 1 << 62, false),
        ] {
            for slot in [Slot::A, Slot::B] {
                let expected = if back { slot.other() } else { slot };
                let live = Epoch::until(slot, deadline).live(|| now);
                assert_eq!(live, expected, "deadline {deadline}, now {now}, {slot:?}");
            }
        }
    }
}
