//! Blocks.

const SECOND: u64 = 1_000_000_000;

/// A block of an address or a prefix.
///
/// A look-up finds only the longest prefix, so whoever writes a block takes over into it what the blocks around it
/// say: the later end wins, for each scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Block {
    /// Until when all traffic of the source is dropped.
    pub host_until: End,
    /// Until when its traffic to guarded ports is dropped; never before `host_until`.
    pub services_until: End,
    /// Packets dropped.
    pub dropped: u64,
}

impl Block {
    /// The same block by a clock that is so many nanoseconds ahead.
    #[must_use]
    pub const fn later(self, nanoseconds: u64) -> Self {
        let Self { host_until, services_until, dropped } = self;
        Self {
            host_until: host_until.later(nanoseconds),
            services_until: services_until.later(nanoseconds),
            dropped,
        }
    }
}

/// When a block ends: in whole seconds of the boot clock, since there is room for a million blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct End(u32);

impl End {
    /// Nothing is blocked.
    pub const NONE: Self = Self(0);
    pub const FOREVER: Self = Self(u32::MAX);

    /// The first one that is not before so many nanoseconds, for blocks that end: neither [`NONE`](Self::NONE) nor
    /// [`FOREVER`](Self::FOREVER).
    pub const fn not_before(nanoseconds: u64) -> Self {
        match nanoseconds.div_ceil(SECOND) {
            0 => Self(1),
            seconds if seconds < Self::FOREVER.0 as u64 => Self(seconds as u32),
            _ => Self(Self::FOREVER.0 - 1),
        }
    }

    /// Nanoseconds of the boot clock; 0 is none, the largest number forever.
    #[inline(always)]
    pub const fn nanoseconds(self) -> u64 {
        if self.0 == Self::FOREVER.0 { u64::MAX } else { self.0 as u64 * SECOND }
    }

    /// Whether the block is in force at that time (nanoseconds of the boot clock).
    #[inline(always)]
    pub fn is_after(self, now: impl FnOnce() -> u64) -> bool {
        self.0 == Self::FOREVER.0 || (self.0 != Self::NONE.0 && now() < self.nanoseconds())
    }

    /// The same end by a clock that is so many nanoseconds ahead.
    #[must_use]
    pub const fn later(self, nanoseconds: u64) -> Self {
        if self.0 == Self::NONE.0 || self.0 == Self::FOREVER.0 {
            return self;
        }
        Self::not_before(self.nanoseconds().saturating_add(nanoseconds))
    }

    /// A second later.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_not_before_what_was_asked_for() {
        let forever = u64::from(u32::MAX) * SECOND;
        let cases = [
            (0, SECOND),
            (1, SECOND),
            (SECOND, SECOND),
            (SECOND + 1, 2 * SECOND),
            (forever, forever - SECOND),
            (u64::MAX, forever - SECOND),
        ];
        for (time, expected) in cases {
            assert_eq!(End::not_before(time).nanoseconds(), expected, "{time}");
        }
    }

    #[test]
    fn a_block_holds_before_its_end() {
        let end = End::not_before(5 * SECOND);
        assert!(end.is_after(|| 0) && end.is_after(|| 5 * SECOND - 1));
        assert!(!end.is_after(|| 5 * SECOND) && !end.is_after(|| u64::MAX));
        // Neither needs the clock.
        assert!(End::FOREVER.is_after(|| unreachable!()));
        assert!(!End::NONE.is_after(|| unreachable!()));
    }

    #[test]
    fn a_block_lasts_as_long_by_another_clock() {
        let block = Block { host_until: End::NONE, services_until: End::not_before(5 * SECOND), dropped: 7 };
        for (ahead, end) in [(0, 5), (SECOND, 6), (SECOND + 1, 7), (u64::MAX, u64::from(u32::MAX) - 1)] {
            let later = block.later(ahead);
            assert_eq!(later.services_until.nanoseconds(), end * SECOND, "{ahead}");
            assert_eq!((later.host_until, later.dropped), (End::NONE, 7), "{ahead}");
        }
        assert_eq!(End::FOREVER.later(SECOND), End::FOREVER);
    }

    #[test]
    fn ends_are_in_order() {
        let one = End::not_before(SECOND);
        assert!(End::NONE < one && one < one.next() && one.next() < End::FOREVER);
        assert_eq!(End::FOREVER.next(), End::FOREVER);
        assert_eq!((End::NONE.nanoseconds(), End::FOREVER.nanoseconds()), (0, u64::MAX));
    }
}
