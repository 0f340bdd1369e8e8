//! The limiter at named rates; `properties` holds it against a reference that counts in exact fractions.

extern crate std;

use super::*;
use crate::plain::Plain;

mod properties;
mod races;

const SECOND: u64 = 1_000_000_000;

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

/// A client had 50 packets a second with a burst of 3,000, used them up, and is given 100,000 a second.
#[test]
fn a_raised_limit_is_there_at_once() {
    let now = 5 * SECOND;
    for (before, after) in
        [((50, 3000), (100_000, 3000)), ((1, 1000), (10_000_000, 1)), ((1, 80_000), (1000, 1000))]
    {
        let [before, after] = [before, after].map(|(rate, burst)| Rate::of_events(rate, burst).unwrap());
        let word = Plain::default();
        while before.admit(&word, now, 1) {}
        assert!(!after.admit(&word, now, 1), "the burst of the new limit is used up");
        assert!(after.full_after(word.load(), now) <= after.tolerance >> TICK_BITS);
        let due = (after.interval >> FRACTION_BITS).div_ceil(1 << TICK_BITS);
        assert!(after.admit(&word, now + due, 1), "{before:?}, {after:?}");
    }
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
