//! Two clocks: the kernel ends a block by one that nobody sets; people and a reboot need the time of day.
//!
//! Within a boot the kernel's clock is the truth, and the time of day follows from it by an offset. When somebody sets the time of day the
//! offset changes, and with it the time of day at which a block ends, but not the block.

use std::fs;

use guard_common::abi::End;

use super::now;
use crate::datapath::boot_now;

const NANOS: u64 = 1_000_000;
/// Milliseconds by which two readings of the offset may differ: what the ledger gives back is not to end a second later for that.
const JITTER: i128 = 10;

/// How the time of day and the kernel's clock stood to each other in one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What the kernel calls this boot; empty where it does not say.
    pub boot: String,
    /// Milliseconds from the kernel's clock to the time of day.
    pub offset: i64,
}

impl Clock {
    pub fn now() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let offset = now().cast_signed() - (boot_now() / NANOS).cast_signed();
        // Ledgers of older builds have an offset of CLOCK_MONOTONIC under the name alone. To them this is another boot, so what they say by the
        // time of day stays.
        let boot = match boot.trim() {
            "" => String::new(),
            boot => format!("{boot} boottime"),
        };
        Self { boot, offset }
    }

    pub fn is_same_boot(&self, other: &Self) -> bool {
        !self.boot.is_empty() && self.boot == other.boot
    }

    /// Milliseconds to add to a time by this clock for one by the other: 0 where they are not of the same boot.
    pub fn ahead(&self, other: &Self) -> i64 {
        if self.is_same_boot(other) { other.offset - self.offset } else { 0 }
    }

    /// A time of day (milliseconds) as the end of a block in the kernel: the next full second.
    pub fn to_kernel(&self, time: u64) -> End {
        let millis = i128::from(time) - i128::from(self.offset) - JITTER;
        End::not_before(u64::try_from(millis.saturating_mul(NANOS.into()).max(0)).unwrap_or(u64::MAX))
    }

    /// The time of day at which the kernel ends a block that is to last until `time`.
    pub fn whole(&self, time: u64) -> u64 {
        self.to_day(self.to_kernel(time).nanoseconds())
    }

    /// A time by the kernel's clock (nanoseconds) as a time of day (milliseconds).
    pub fn to_day(&self, time: u64) -> u64 {
        shifted(time / NANOS, self.offset)
    }
}

/// A time of day, later or earlier.
pub fn shifted(time: u64, millis: i64) -> u64 {
    // SQLite's numbers are signed.
    time.saturating_add_signed(millis).min(i64::MAX.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_becomes_a_kernel_time_and_back() {
        let cases = [
            (1_000, -4_000, 5),
            (61_000, -4_000, 65),
            (0, -4_000, 4),
            (5_000, -4_009, 9),
            (5_000, -4_011, 10),
            (5_000, -4_999, 10),
            (0, 5_000, 1),
            (u64::MAX, -5, u64::from(u32::MAX) - 1),
        ];
        for (time, offset, expected) in cases {
            let clock = Clock { boot: "a".into(), offset };
            assert_eq!(clock.to_kernel(time).nanoseconds(), expected * 1_000_000_000, "{time} at {offset}");
            let whole = clock.whole(time);
            assert_eq!(whole.saturating_add_signed(-offset), expected * 1_000, "{time} at {offset}");
            for jitter in [-JITTER, 0, JITTER] {
                let later = Clock { offset: offset + i64::try_from(jitter).unwrap(), ..clock.clone() };
                assert_eq!(later.whole(whole), later.to_day(expected * 1_000_000_000), "{time} at {offset}");
            }
        }
    }

    #[test]
    fn clocks_are_comparable_within_a_boot() {
        let clock = |boot: &str, offset| Clock { boot: boot.into(), offset };
        assert_eq!(clock("a", 5).ahead(&clock("a", 7)), 2);
        assert_eq!(clock("a", 5).ahead(&clock("b", 7)), 0);
        assert_eq!(clock("", 5).ahead(&clock("", 7)), 0);
    }

    #[test]
    fn now_is_now() {
        let (day, kernel) = (now(), boot_now());
        let clock = Clock::now();
        assert!(!clock.boot.is_empty());
        assert!(clock.to_kernel(day).nanoseconds().abs_diff(kernel) <= 1_000_000_000);
        assert!(clock.to_day(kernel).abs_diff(day) < 1_000);
    }
}
