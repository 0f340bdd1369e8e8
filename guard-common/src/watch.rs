//! What is shown of drops to somebody who watches: frames for `guard capture`, lines for the log of the agent.
//!
//! Most of the time nobody does. Then the word of a [`Watch`] is 0, and to see that is all that it costs. Otherwise the word
//! ends by itself: the agent writes it anew as long as somebody watches.
//!
//! ```text
//! bit 63                       24 23          16   15   14           0
//!     until, in 2^24 nanoseconds │   service    │ log │   reasons    │
//! ```

use core::ops::BitOr;

use crate::abi::{Allowance, Sample, ServiceId, Watch};
use crate::{Address, Reason};

/// Time is told in units of so many bits of nanoseconds: 17 ms.
const UNIT: u32 = 24;
const SERVICE: u32 = 16;
const LOG: u64 = 1 << 15;
const REASONS: u64 = LOG - 1;

/// An allowance is for so many bits of nanoseconds: 67 ms.
const STRETCH: u32 = 26;

impl Allowance {
    /// Frames of a CPU in a stretch: 1,900 a second.
    pub const FRAMES: u64 = 128;
    /// Lines of a CPU in a stretch: 120 a second.
    pub const LINES: u64 = 8;

    /// Whether one more is shown at `now` (nanoseconds), if there are `most` in a stretch.
    #[inline(always)]
    pub fn spend(&mut self, now: u64, most: u64) -> bool {
        let stretch = now >> STRETCH;
        if self.stretch != stretch {
            self.stretch = stretch;
            self.left = most;
        }
        if self.left == 0 {
            self.skipped = self.skipped.wrapping_add(1);
            return false;
        }
        self.left -= 1;
        true
    }
}

/// A set of reasons why packets are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reasons(u16);

impl Reasons {
    pub const NONE: Self = Self(0);

    /// All that there are.
    pub fn all() -> Self {
        Reason::ALL.into_iter().filter(|reason| reason.drops()).collect()
    }

    pub const fn of(reason: Reason) -> Self {
        Self(1 << reason as u8)
    }

    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & Self::of(reason).0 != 0
    }
}

impl BitOr for Reasons {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        reasons.into_iter().map(Self::of).fold(Self::NONE, BitOr::bitor)
    }
}

/// Which drops are wanted as frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub reasons: Reasons,
    /// Of this service alone; [`ServiceId::NONE`]: of all, and of none.
    pub service: ServiceId,
    /// From sources that are this under the mask; all zero: from anywhere.
    pub source: [u8; 16],
    pub mask: [u8; 16],
}

impl Wanted {
    /// Only from the prefix of so many bits of this address in its mapped form.
    pub fn only_from(self, source: Address, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0).to_be_bytes();
        let source = (u128::from_be_bytes(source.to_bytes()) & u128::from_be_bytes(mask)).to_be_bytes();
        Self { source, mask, ..self }
    }

    /// What has both among it, and as little else as can be.
    pub fn or(self, other: Self) -> Self {
        let number = u128::from_be_bytes;
        let differ = number(self.source) ^ number(other.source);
        let same = u128::MAX.checked_shl(128 - differ.leading_zeros()).unwrap_or(0);
        let mask = number(self.mask) & number(other.mask) & same;
        Self {
            reasons: self.reasons | other.reasons,
            service: if self.service == other.service { self.service } else { ServiceId::NONE },
            source: (number(self.source) & mask).to_be_bytes(),
            mask: mask.to_be_bytes(),
        }
    }
}

impl Watch {
    /// Nobody wants anything.
    pub const OFF: Self = Self { word: 0, source: [0; 16], mask: [0; 16] };

    /// Until `until` (nanoseconds of the boot clock, exact to 17 ms) frames are `wanted`, if any, and lines of all drops if `log`.
    pub fn new(until: u64, wanted: Option<Wanted>, log: bool) -> Self {
        if wanted.is_none() && !log {
            return Self::OFF;
        }
        let Wanted { reasons, service, source, mask } = wanted.unwrap_or_default();
        let flags = u64::from(reasons.0) | if log { LOG } else { 0 };
        let word = until >> UNIT << UNIT | u64::from(service.get()) << SERVICE | flags;
        Self { word, source, mask }
    }

    /// Whether what `word` says is over at `now` (nanoseconds of the boot clock).
    #[inline(always)]
    pub const fn is_over(word: u64, now: u64) -> bool {
        now >> UNIT >= word >> UNIT
    }

    #[inline(always)]
    pub const fn logs(word: u64) -> bool {
        word & LOG != 0
    }

    /// Whether a drop is wanted as a frame. `word` is that of this watch, as it was read.
    #[inline(always)]
    pub fn wants(&self, word: u64, drop: &Sample) -> bool {
        let service = (word >> SERVICE) as u8;
        let number = u128::from_ne_bytes;
        (word & REASONS) >> (drop.reason & 15) & 1 != 0
            && (service == 0 || service == drop.service)
            && number(drop.source) & number(self.mask) == number(self.source)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn drop(reason: Reason, service: u8, source: [u8; 4]) -> Sample {
        let source = Address::v4(source).to_bytes();
        Sample { reason: reason as u8, service, source, ..Sample::default() }
    }

    fn wants(watch: Watch, drop: &Sample) -> bool {
        watch.wants(watch.word, drop)
    }

    #[test]
    fn nothing_wanted_is_a_word_of_zero() {
        assert_eq!(Watch::new(SECOND, None, false), Watch::OFF);
        assert_eq!(Watch::OFF.word, 0);
        for reason in Reason::ALL {
            assert!(!wants(Watch::OFF, &drop(reason, 1, [10, 0, 0, 1])), "{reason:?}");
        }
    }

    #[test]
    fn a_watch_ends_by_itself() {
        for until in [SECOND, 77 * SECOND, 40_000_000 * SECOND] {
            let Watch { word, .. } = Watch::new(until, Some(Wanted::default()), true);
            assert!(!Watch::is_over(word, until - (1 << UNIT)), "{until}");
            assert!(Watch::is_over(word, until), "{until}");
            assert!(Watch::is_over(word, u64::MAX), "{until}");
        }
    }

    #[test]
    fn reasons_are_wanted_one_by_one() {
        for wanted in Reason::ALL.into_iter().filter(|reason| reason.drops()) {
            for log in [false, true] {
                let watch = Watch::new(
                    SECOND,
                    Some(Wanted { reasons: Reasons::of(wanted), ..Wanted::default() }),
                    log,
                );
                assert_eq!(Watch::logs(watch.word), log);
                for reason in Reason::ALL {
                    assert_eq!(wants(watch, &drop(reason, 3, [10, 0, 0, 1])), reason == wanted, "{reason:?}");
                }
            }
        }
        let all = Watch::new(SECOND, Some(Wanted { reasons: Reasons::all(), ..Wanted::default() }), false);
        for reason in Reason::ALL {
            assert_eq!(wants(all, &drop(reason, 0, [10, 0, 0, 1])), reason.drops(), "{reason:?}");
        }
    }

    #[test]
    fn a_log_alone_wants_no_frames() {
        let watch = Watch::new(SECOND, None, true);
        assert!(Watch::logs(watch.word));
        assert!(!wants(watch, &drop(Reason::Blocked, 1, [10, 0, 0, 1])));
    }

    #[test]
    fn services_and_sources_are_told_apart() {
        let wanted = Wanted { reasons: Reasons::all(), service: ServiceId::new(200), ..Wanted::default() }
            .only_from(Address::v4([10, 1, 2, 3]), 96 + 16);
        let watch = Watch::new(u64::MAX, Some(wanted), false);
        for (service, source, expected) in [
            (200, [10, 1, 255, 255], true),
            (200, [10, 1, 0, 0], true),
            (200, [10, 2, 2, 3], false),
            (201, [10, 1, 2, 3], false),
            (0, [10, 1, 2, 3], false),
        ] {
            assert_eq!(
                wants(watch, &drop(Reason::Denied, service, source)),
                expected,
                "{service} {source:?}"
            );
        }
    }

    #[test]
    fn two_wishes_are_both_in_what_is_asked_for() {
        let denied = Wanted { reasons: Reasons::of(Reason::Denied), ..Wanted::default() };
        let blocked = Wanted { reasons: Reasons::of(Reason::Blocked), ..Wanted::default() };
        let one = Wanted { service: ServiceId::new(1), ..denied }.only_from(Address::v4([10, 1, 2, 3]), 128);
        let other =
            Wanted { service: ServiceId::new(2), ..blocked }.only_from(Address::v4([10, 1, 3, 3]), 128);
        let both = Watch::new(SECOND, Some(one.or(other)), false);
        for (reason, service, source, expected) in [
            (Reason::Denied, 1, [10, 1, 2, 3], true),
            (Reason::Blocked, 2, [10, 1, 3, 3], true),
            (Reason::Malformed, 2, [10, 1, 3, 3], false),
            (Reason::Denied, 1, [10, 1, 4, 3], false),
        ] {
            assert_eq!(wants(both, &drop(reason, service, source)), expected, "{reason:?} {source:?}");
        }
        assert_eq!(one.or(one), one);
        assert_eq!(one.or(denied).mask, [0; 16], "from anywhere");
        assert_eq!(one.or(denied).service, ServiceId::NONE, "of any service");
    }

    #[test]
    fn an_allowance_is_for_a_stretch_of_time() {
        let mut allowance = Allowance::default();
        let spent = |allowance: &mut Allowance, now| (0..100).filter(|_| allowance.spend(now, 8)).count();
        assert_eq!(spent(&mut allowance, SECOND), 8);
        assert_eq!(spent(&mut allowance, SECOND), 0);
        assert_eq!((allowance.skipped, allowance.lost), (192, 0));
        assert_eq!(spent(&mut allowance, SECOND + (1 << STRETCH)), 8);
    }
}
