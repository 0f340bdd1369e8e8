//! The limiter at random rates and times.

extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::{Plain, SECOND};
use crate::gcra::*;

const HOUR: u64 = 3600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;
/// Where the clock of ticks wraps, in nanoseconds: 36.5 years.
const WRAP: u64 = 1 << (64 - TICK_BITS);

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

/// When it begins: at any time, and shortly before one of the wraps.
fn start() -> impl Strategy<Value = u64> {
    let before_a_wrap = (1..5u64, 0..100 * SECOND).prop_map(|(wraps, before)| wraps * WRAP - before);
    prop_oneof![1..1u64 << 62, before_a_wrap]
}

fn events_per_second() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..100, 1u64..100_000, 1u64..=MAX_EVENTS_PER_SECOND]
}

/// A rate of bytes, and a burst with room for two packets.
fn bytes_per_second() -> impl Strategy<Value = (u64, u64)> {
    let rate = prop_oneof![MIN_BYTES_PER_SECOND..1_000_000, MIN_BYTES_PER_SECOND..=MAX_BYTES_PER_SECOND];
    (rate, prop_oneof![65_536u64..100_000, 65_536u64..10_000_000])
}

/// A pause between packets, some of them years. A source that was idle until two days before the wrap is the longest that the
/// limiter can tell from one whose time is still to come.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0u64..1000,
        8 => 0u64..1_000_000,
        2 => 0u64..SECOND,
        2 => 0u64..30 * SECOND,
        1 => 0u64..48 * HOUR,
        1 => 0u64..36 * YEAR,
    ]
}

/// Steps of an offered load: the pause before each packet, and its size.
fn load() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((pause(), 60u64..9000), 1..400)
}

fn part_of(time: u64, part: f64) -> u64 {
    (time as f64 * part) as u64
}

/// A packet: when, how many units, and whether they were admitted.
type Offered = (u64, u64, bool);

fn offer(limit: &Rate, start: u64, load: &[(u64, u64)], units: fn(u64) -> u64) -> Vec<Offered> {
    let word = Plain::default();
    let mut now = start;
    let packet = |(pause, size): &(u64, u64)| {
        // Four centuries of pauses are enough.
        now = now.checked_add(*pause).filter(|now| *now < 1 << 63)?;
        Some((now, units(*size), limit.admit(&word, now, units(*size))))
    };
    load.iter().map_while(packet).collect()
}

/// No more than `rate * t + burst` in any window, `slack` units aside.
fn never_more(offered: &[Offered], rate: u64, burst: u64, slack: u64) {
    let admitted: Vec<_> = offered.iter().filter(|(_, _, admitted)| *admitted).collect();
    for (first, (from, _, _)) in admitted.iter().enumerate() {
        let mut sum = 0;
        for (to, units, _) in &admitted[first..] {
            sum += u128::from(*units);
            let most =
                u128::from(burst + slack) * u128::from(SECOND) + u128::from(rate) * u128::from(to - from);
            assert!(sum * u128::from(SECOND) <= most, "{sum} in {} ns, {rate}/s, burst {burst}", to - from);
        }
    }
}

/// No less than `rate * t`: from the first packet on, and from the first that is refused on, when no more than that packet is left
/// of the burst and no more than two can come to be.
fn never_less(offered: &[Offered], rate: u64, largest: u64) {
    no_less_from_its_start(offered, rate, 0);
    if let Some(refused) = offered.iter().position(|(_, _, admitted)| !admitted) {
        no_less_from_its_start(&offered[refused..], rate, 2 * largest);
    }
}

/// Less `slack` units, a tick for each packet, and 2^-16 of one for each byte.
fn no_less_from_its_start(offered: &[Offered], rate: u64, slack: u64) {
    let Some((from, _, _)) = offered.first() else { return };
    let (mut sum, mut packets) = (0u128, 0u128);
    for (to, units, admitted) in offered {
        let ticks = u128::from(to - from) << TICK_BITS;
        let rounding = packets + (sum >> FRACTION_BITS) + 1;
        let took = ((sum + u128::from(slack)) * u128::from(TICKS_PER_SECOND)).div_ceil(u128::from(rate));
        assert!(took + rounding >= ticks, "{sum} in {packets} packets in {} ns, {rate}/s", to - from);
        sum += u128::from(*units) * u128::from(*admitted);
        packets += u128::from(*admitted);
    }
}

proptest! {
    /// No more than the exact bucket with one unit more, no less than the exact bucket that is 0.1 % slower with one unit less.
    #[test]
    fn events_conform_like_an_exact_bucket(
        rate in events_per_second(),
        burst in 1u64..1000,
        start in start(),
        load in prop::collection::vec(prop_oneof![0u64..1000, 0u64..1_000_000, 0u64..SECOND], 1..400),
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let word = Plain::default();
        let mut never_more = Bucket::new(rate, burst, start);
        let (mut admitted, mut exact, mut offered) = (0u64, 0u64, 0u64);
        let mut now = start;
        for pause in load {
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
    fn events_never_exceed_rate_and_burst_in_any_window(
        rate in events_per_second(),
        burst in 1u64..1000,
        start in start(),
        load in load(),
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        never_more(&offer(&limit, start, &load, |_| 1), rate, burst, 0);
    }

    #[test]
    fn bytes_never_exceed_rate_and_burst_in_any_window(
        (rate, burst) in bytes_per_second(),
        start in start(),
        load in load(),
    ) {
        let limit = Rate::of_bytes(rate, burst).unwrap();
        never_more(&offer(&limit, start, &load, |size| size), rate, burst, 1);
    }

    /// Whoever has room for two and never waits longer than one event takes gets all of the rate, and no more.
    #[test]
    fn a_source_that_offers_more_events_gets_the_rate(
        rate in events_per_second(),
        burst in prop_oneof![2u64..10, 2u64..1000],
        start in start(),
        waits in prop::collection::vec(0.0..=1.0, 1..600),
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let load: Vec<_> = waits.iter().map(|wait| (part_of(SECOND / rate, *wait), 1)).collect();
        let offered = offer(&limit, start, &load, |_| 1);
        never_less(&offered, rate, 1);
        never_more(&offered, rate, burst, 0);
    }

    /// Whoever never waits longer than the last packet takes gets all of the rate, and no more.
    #[test]
    fn a_source_that_offers_more_bytes_gets_the_rate(
        (rate, burst) in bytes_per_second(),
        start in start(),
        packets in prop::collection::vec((0.0..=1.0, 60u64..9000), 1..600),
    ) {
        let limit = Rate::of_bytes(rate, burst).unwrap();
        let mut last = 0;
        let mut packet = |(wait, size): &(f64, u64)| {
            let took = last * SECOND / rate;
            last = *size;
            (part_of(took, *wait), *size)
        };
        let load: Vec<_> = packets.iter().map(&mut packet).collect();
        let offered = offer(&limit, start, &load, |size| size);
        never_less(&offered, rate, 9000);
        never_more(&offered, rate, burst, 1);
    }

    /// Not a nanosecond before by the exact rate, and in the first nanosecond after by the rounded one.
    #[test]
    fn the_burst_is_exact_and_the_next_event_comes_when_it_is_due(
        rate in events_per_second(),
        burst in 1u64..1000,
        start in start(),
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let word = Plain::default();
        let admitted = (0..burst + 10).filter(|_| limit.admit(&word, start, 1)).count() as u64;
        prop_assert_eq!(admitted, burst);
        let (early, due) = ((SECOND - 1) / rate, TICKS_PER_SECOND.div_ceil(rate).div_ceil(1 << TICK_BITS));
        prop_assert!(!limit.admit(&word, start + early, 1), "after {early} ns");
        prop_assert!(limit.admit(&word, start + due, 1), "after {due} ns");
        prop_assert!(!limit.admit(&word, start + due, 1), "twice after {due} ns");
    }

    #[test]
    fn a_source_that_was_idle_for_years_has_its_burst_and_no_more(
        rate in events_per_second(),
        burst in 1u64..1000,
        used in 1u64..1000,
        start in start(),
        idle in 1000 * SECOND..36 * YEAR,
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let word = Plain::default();
        let offer = |count, now| (0..count).filter(|_| limit.admit(&word, now, 1)).count() as u64;
        prop_assert_eq!(offer(used, start), used.min(burst));
        prop_assert_eq!(offer(burst + 10, start + idle), burst);
    }

    /// Whatever the limits before were and however much of them was used: from a change on, a source that always offers gets the new rate and
    /// burst, no more, and no less than the rate from the first packet on.
    #[test]
    fn a_change_of_the_limit_binds_at_once_and_holds_nothing_against_the_source(
        changes in prop::collection::vec((events_per_second(), prop_oneof![1u64..4, 1u64..300]), 2..6),
        start in start(),
        wait in 0..SECOND,
    ) {
        let word = Plain::default();
        let mut now = start;
        for (rate, burst) in changes {
            let limit = Rate::of_events(rate, burst).unwrap();
            let begin = now;
            // What the change itself may cost: a packet to see it, and what CPUs may differ by.
            let mut load = Vec::new();
            for _ in 0..burst + 50 {
                load.push((now, 1, limit.admit(&word, now, 1)));
            }
            let step = TICKS_PER_SECOND.div_ceil(rate).div_ceil(1 << TICK_BITS);
            for _ in 0..100 {
                now += step;
                load.push((now, 1, limit.admit(&word, now, 1)));
            }
            never_more(&load, rate, burst, 0);
            let admitted = load.iter().filter(|(_, _, admitted)| *admitted).count() as u64;
            let free = (DIFFERENCE >> TICK_BITS).div_ceil(step).min(100);
            prop_assert!(admitted + free + 1 >= 100, "{admitted} of 100 in {} ns, {rate}/s", now - begin);
            now += wait;
        }
    }

    /// The same for bytes.
    #[test]
    fn a_change_of_a_limit_of_bytes_binds_at_once(
        (before, burst_before) in bytes_per_second(),
        (rate, burst) in bytes_per_second(),
        start in start(),
    ) {
        const SIZE: u64 = 1500;
        let word = Plain::default();
        let used = Rate::of_bytes(before, burst_before).unwrap();
        while used.admit(&word, start, SIZE) {}
        let limit = Rate::of_bytes(rate, burst).unwrap();
        let mut offered = Vec::new();
        let step = (SIZE * SECOND).div_ceil(rate) + 1;
        let offers = (burst / SIZE).min(100) + 100;
        for number in 0..offers {
            let now = start + number * step;
            offered.push((now, SIZE, limit.admit(&word, now, SIZE)));
        }
        never_more(&offered, rate, burst, 1);
        let admitted = offered.iter().filter(|(_, _, admitted)| *admitted).count() as u64;
        let free = (DIFFERENCE >> TICK_BITS).div_ceil(step);
        prop_assert!(admitted + free + 2 >= offers, "{admitted} of {offers}, {rate} bytes/s");
    }

    /// Only differences of time count: a wrap of the clock at any point of a load changes nothing.
    #[test]
    fn a_load_conforms_alike_before_and_across_a_wrap(
        rate in events_per_second(),
        burst in 1u64..20,
        wraps in 1u64..8,
        waits in prop::collection::vec(prop_oneof![8 => 0.0..=2.0, 1 => 0.0..=1e5], 1..200),
        before in 0.0..=1.0,
    ) {
        let limit = Rate::of_events(rate, burst).unwrap();
        let load: Vec<_> = waits.iter().map(|wait| (part_of(SECOND / rate, *wait), 1)).collect();
        let length = load.iter().map(|(pause, _)| pause).sum();
        let across = wraps * WRAP - part_of(length, before);
        let at = |start| offer(&limit, start, &load, |_| 1).into_iter().map(|(_, _, admitted)| admitted);
        prop_assert_eq!(at(SECOND).collect::<Vec<_>>(), at(across).collect::<Vec<_>>());
    }
}
