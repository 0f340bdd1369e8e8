//! The limiter against a reference that counts in exact fractions.

extern crate std;

use core::cell::Cell;
use proptest::prelude::*;
use std::vec::Vec;

use super::*;

const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Plain(Cell<u64>);

impl Word for Plain {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        if self.0.get() != current {
            return Err(self.0.get());
        }
        self.0.set(new);
        Ok(())
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}

/// A token bucket in exact arithmetic: tokens in 1/10^9, which fill up by `rate` in a nanosecond.
struct Bucket {
    rate: u128,
    burst: u128,
    tokens: u128,
    at: u64,
}

impl Bucket {
    fn new(rate: u64, burst: u64, at: u64) -> Self {
        let burst = u128::from(burst) * u128::from(SECOND);
        Self { rate: rate.into(), burst, tokens: burst, at }
    }

    fn admit(&mut self, now: u64, units: u64) -> bool {
        self.tokens = self.burst.min(self.tokens + u128::from(now - self.at) * self.rate);
        self.at = now;
        let cost = u128::from(units) * u128::from(SECOND);
        let admitted = cost <= self.tokens;
        if admitted {
            self.tokens -= cost;
        }
        admitted
    }
}

#[test]
fn the_burst_is_exact_and_comes_back_at_the_rate() {
    for (rate, burst) in [(1, 1), (3, 20), (7, 1), (1000, 4000), (9_999_999, 1000), (10_000_000, 1)] {
        let limit = Rate::of_events(rate, burst).unwrap();
        let word = Plain::default();
        let now = 5 * SECOND;
        let admitted = (0..burst + 10).filter(|_| limit.admit(&word, now, 1)).count() as u64;
        assert_eq!(admitted, burst, "{rate}/s, burst {burst}");
        assert_eq!(limit.left(word.load(), now), 0, "{rate}/s, burst {burst}");
        // One nanosecond before the next is due by the exact rate, and one tick's rounding after it.
        let due = SECOND / rate;
        assert!(due < 2 || !limit.admit(&word, now + due - 1, 1), "{rate}/s, burst {burst}: early");
        assert!(limit.admit(&word, now + due + 1, 1), "{rate}/s, burst {burst}: late");
    }
}

#[test]
fn a_source_that_was_idle_for_years_has_its_burst_and_no_more() {
    let limit = Rate::of_events(10, 5).unwrap();
    let year = 365 * 24 * 3600 * SECOND;
    for years in [0, 1, 4, 17, 18, 35] {
        let word = Plain::default();
        assert!(limit.admit(&word, SECOND, 1));
        let now = 10 * SECOND + years * year;
        let admitted = (0..10).filter(|_| limit.admit(&word, now, 1)).count();
        assert_eq!(admitted, 5, "after {years} years");
    }
}

#[test]
fn the_wrap_of_the_tick_clock_changes_nothing() {
    let limit = Rate::of_events(1000, 10).unwrap();
    let wrap = 1 << (64 - TICK_BITS);
    let word = Plain::default();
    let start = wrap - SECOND / 2;
    // Offered 10,000 a second for one second, half of it past the wrap.
    let admitted = (0..10_000).filter(|step| limit.admit(&word, start + step * 100_000, 1)).count();
    assert_eq!(admitted, 1000 + 9);
}

#[test]
fn limits_outside_of_the_bounds_are_refused() {
    assert_eq!(Rate::of_events(0, 1), Err(RateError::Rate));
    assert_eq!(Rate::of_events(10_000_001, 1), Err(RateError::Rate));
    assert_eq!(Rate::of_events(1, 0), Err(RateError::Burst));
    assert!(Rate::of_events(1, 86_400).is_ok());
    assert_eq!(Rate::of_events(1, 86_401), Err(RateError::Burst));
    assert_eq!(Rate::of_bytes(1023, 1), Err(RateError::Rate));
    assert_eq!(Rate::of_bytes((100 << 30) + 1, 1), Err(RateError::Rate));
    assert_eq!(Rate::of_bytes(1024, u64::MAX), Err(RateError::Burst));
    assert!(Rate::of_bytes(100 << 30, 1 << 40).is_ok());
}

#[test]
fn the_error_is_within_what_the_documentation_says() {
    for rate in [1, 3, 7, 999, 1_000_000, 3_000_000, 7_777_777, 9_999_999, 10_000_000] {
        let limit = Rate::of_events(rate, 1).unwrap();
        let exact = TICKS_PER_SECOND as f64 / rate as f64;
        let error = limit.cost(1) as f64 / exact - 1.0;
        assert!((0.0..0.0007).contains(&error), "{rate}/s: {error}");
    }
    for (rate, packet) in [(1024, 60), (50 << 20, 60), (1 << 30, 60), (100 << 30, 1500)] {
        let limit = Rate::of_bytes(rate, 1 << 20).unwrap();
        let exact = packet as f64 * TICKS_PER_SECOND as f64 / rate as f64;
        let error = limit.cost(packet) as f64 / exact - 1.0;
        assert!((0.0..0.005).contains(&error), "{rate} bytes/s, {packet} bytes: {error}");
    }
}

/// Steps of an offered load: the pause before each packet, and its size.
fn load() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![
        4 => 0u64..1000,
        4 => 0u64..1_000_000,
        1 => 0u64..SECOND,
        1 => 0u64..(30 * SECOND),
    ];
    prop::collection::vec((pause, 60u64..9000), 1..400)
}

proptest! {
    /// No more than the exact bucket with one unit more, no less than the exact bucket that is 0.1 % slower with one unit less.
    #[test]
    fn events_conform_like_an_exact_bucket(
        rate in prop_oneof![1u64..100, 1u64..100_000, 1u64..=10_000_000],
        burst in 1u64..1000,
        start in 0u64..(1 << 59),
        load in load(),
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let word = Plain::default();
        let mut never_more = Bucket::new(rate, burst, start);
        let (mut admitted, mut exact, mut offered) = (0u64, 0u64, 0u64);
        let mut now = start;
        for (pause, _) in load {
            now += pause;
            offered += 1;
            admitted += u64::from(limit.admit(&word, now, 1));
            exact += u64::from(never_more.admit(now, 1));
        }
        prop_assert!(admitted <= exact + 1, "{admitted} of {exact}, {offered} offered");
        let slack = 1 + exact / 1000 + u64::try_from(u128::from(now - start) * u128::from(rate) / u128::from(SECOND) / 1000).unwrap();
        prop_assert!(admitted + slack >= exact, "{admitted} of {exact}, {offered} offered");
    }

    #[test]
    fn bytes_never_exceed_rate_and_burst(
        rate in prop_oneof![1024u64..1_000_000, 1024u64..=(100 << 30)],
        burst in 65_536u64..10_000_000,
        start in 0u64..(1 << 59),
        load in load(),
    ) {
        prop_assume!(burst / rate < 24 * 3600);
        let limit = Rate::of_bytes(rate, burst).unwrap();
        let word = Plain::default();
        let mut now = start;
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        for (pause, size) in load {
            now += pause;
            if limit.admit(&word, now, size) {
                admitted.push((now, size));
            }
        }
        // Every window that begins and ends with a packet, not only the whole.
        for (first, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0u128;
            for (to, size) in &admitted[first..] {
                sum += u128::from(*size);
                let most = u128::from(burst) + u128::from(rate) * u128::from(to - from) / u128::from(SECOND) + 1;
                prop_assert!(sum <= most, "{sum} bytes in {} ns, at most {most}", to - from);
            }
        }
    }
}
