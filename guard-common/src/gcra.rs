//! The rate limiter: the generic cell rate algorithm, in its virtual scheduling form.
//!
//! Source: ITU-T I.371, annex A; Brandur Leach, "Rate Limiting, Cells, and GCRA".
//!
//! The whole state is one word, the theoretical arrival time (TAT). A packet conforms if
//!
//! ```text
//! max(TAT, now) + cost - now <= tolerance       cost = interval * units, tolerance = interval * burst
//! ```
//!
//! and then TAT becomes `max(TAT, now) + cost`. The word is moved by compare-and-swap, so the limit is exact
//! however many CPUs share it. In any window of `t` seconds at most `rate * t + burst` units conform; a source that
//! always offers more gets at least that, less the rounding of the cost: at most one tick (1/16 ns) a packet,
//! 0.07 % at 10 million packets a second and in proportion less below.

/// A limit, as it lies in a BPF map. An interval of 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rate {
    /// Ticks of one unit, times 2^16.
    interval: u64,
    /// Ticks by which the theoretical arrival time may lie ahead.
    tolerance: u64,
}

/// Ticks in a nanosecond, as a power of two. The tick bounds the error of fast limits; at 1/16 ns the clock wraps after
/// 36 years of uptime, which the algorithm survives.
const TICK_BITS: u32 = 4;
/// Fraction bits of the interval: a byte takes 0.16 ticks at 100 Gb/s.
const FRACTION_BITS: u32 = 16;
const TICKS_PER_SECOND: u64 = 1_000_000_000 << TICK_BITS;

/// The largest tolerance of a limit: 24 hours, in ticks.
pub const MAX_TOLERANCE: u64 = 24 * 3600 * TICKS_PER_SECOND;
/// A TAT that lies further ahead than any limit allows is one from long ago, seen across the wrap of the clock.
const MAX_AHEAD: u64 = 2 * MAX_TOLERANCE;
/// Ticks by which CPUs may differ in what time it is for them: one read it a moment before another, and comes to the word after that. A
/// millisecond, unless the machine stopped in between.
const DIFFERENCE: u64 = TICKS_PER_SECOND / 1000;
/// How often a lost race is tried again. Each loss means that another packet of the source conformed meanwhile.
const ATTEMPTS: u32 = 8;

/// A 64-bit word that several CPUs share.
pub trait Word {
    fn load(&self) -> u64;
    /// Stores `new` if the word is `current`; otherwise returns what it is.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64>;
    fn add(&self, amount: u64);
}

/// Bounds of the limits that keep the rounding under 0.1 % and the arithmetic within 64 bits.
pub const MAX_EVENTS_PER_SECOND: u64 = 10_000_000;
pub const MIN_BYTES_PER_SECOND: u64 = 1024;
pub const MAX_BYTES_PER_SECOND: u64 = 100 << 30;

/// A limit outside the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// The rate is outside of its bounds.
    Rate,
    /// The burst is 0, or would take more than 24 hours to come back.
    Burst,
}

impl Rate {
    pub const UNLIMITED: Self = Self { interval: 0, tolerance: 0 };

    /// A limit of packets or connections: `burst` at once, then `per_second`.
    ///
    /// # Errors
    /// When the rate is 0 or above [`MAX_EVENTS_PER_SECOND`], or `burst` is 0 or more than 24 hours' worth.
    pub fn of_events(per_second: u64, burst: u64) -> Result<Self, RateError> {
        if per_second == 0 || per_second > MAX_EVENTS_PER_SECOND {
            return Err(RateError::Rate);
        }
        // Whole ticks, so that the burst is exactly as many events as it says.
        let interval = TICKS_PER_SECOND.div_ceil(per_second);
        Self::checked(u128::from(interval) << FRACTION_BITS, u128::from(burst) * u128::from(interval))
    }

    /// A limit of bytes: `burst` at once, then `per_second`.
    ///
    /// # Errors
    /// When the rate is below [`MIN_BYTES_PER_SECOND`] or above [`MAX_BYTES_PER_SECOND`], or `burst` is 0 or more than 24
    /// hours' worth.
    pub fn of_bytes(per_second: u64, burst: u64) -> Result<Self, RateError> {
        if !(MIN_BYTES_PER_SECOND..=MAX_BYTES_PER_SECOND).contains(&per_second) {
            return Err(RateError::Rate);
        }
        let interval = (u128::from(TICKS_PER_SECOND) << FRACTION_BITS).div_ceil(u128::from(per_second));
        Self::checked(interval, (interval * u128::from(burst)).div_ceil(1 << FRACTION_BITS))
    }

    /// A limit of bytes that is known when this is compiled.
    pub const fn constant(bytes_per_second: u64, burst: u64) -> Self {
        let interval = (TICKS_PER_SECOND << FRACTION_BITS).div_ceil(bytes_per_second);
        // Bursts of some megabytes at rates of some kilobytes a second: less than 2^64.
        Self { interval, tolerance: ((interval as u128 * burst as u128) >> FRACTION_BITS) as u64 }
    }

    fn checked(interval: u128, tolerance: u128) -> Result<Self, RateError> {
        match (u64::try_from(interval), u64::try_from(tolerance)) {
            (Ok(interval), Ok(tolerance @ 1..=MAX_TOLERANCE)) => Ok(Self { interval, tolerance }),
            _ => Err(RateError::Burst),
        }
    }

    #[inline(always)]
    pub const fn is_unlimited(&self) -> bool {
        self.interval == 0
    }

    /// Whether `units` conform at `now` (nanoseconds); if so they are taken from what is left.
    #[inline(always)]
    pub fn admit(&self, word: &impl Word, now: u64, units: u64) -> bool {
        match self.try_admit(word, word.load(), now, units) {
            Ok(within) => within,
            Err(seen) => self.contend(word, seen, now, units),
        }
    }

    /// Tries again, after another CPU was first. A function of its own, since few come here.
    ///
    /// A packet that was within the limit at each look is not dropped because others were faster. After the last look it is admitted, and what
    /// it takes is added to the word, which no other CPU can hinder. Such a race exceeds the limit by at most one packet of each other CPU.
    #[inline(never)]
    fn contend(&self, word: &impl Word, mut arrival: u64, now: u64, units: u64) -> bool {
        for _ in 1..ATTEMPTS {
            match self.try_admit(word, arrival, now, units) {
                Ok(within) => return within,
                Err(seen) => arrival = seen,
            }
        }
        let cost = self.cost(units);
        let within = ahead(arrival, now << TICK_BITS) + cost <= self.tolerance;
        if within {
            word.add(cost);
        }
        within
    }

    /// The same, if the word is still `arrival`; else returns what it is.
    #[inline(always)]
    pub fn try_admit(&self, word: &impl Word, arrival: u64, now: u64, units: u64) -> Result<bool, u64> {
        let now = now << TICK_BITS;
        let cost = self.cost(units);
        let ahead = ahead(arrival, now);
        if ahead + cost > self.tolerance {
            // Only under another limit could the time come to lie further ahead than this one allows. From now on it is one of this limit whose
            // burst is used up: the source does not wait for what the other limit held against it.
            if ahead > self.tolerance + DIFFERENCE {
                let _ = word.compare_exchange(arrival, now.wrapping_add(self.tolerance).max(1));
            }
            return Ok(false);
        }
        // 0 stays the word of a source that was never seen.
        word.compare_exchange(arrival, now.wrapping_add(ahead + cost).max(1)).map(|()| true)
    }

    /// Whether `units` would conform at `now` (nanoseconds). Nothing is taken.
    #[inline(always)]
    pub fn has_room(&self, word: &impl Word, now: u64, units: u64) -> bool {
        ahead(word.load(), now << TICK_BITS) + self.cost(units) <= self.tolerance
    }

    /// Gives back `units` that were taken. What came back by itself meanwhile is no credit.
    #[inline(always)]
    pub fn give_back(&self, word: &impl Word, units: u64) {
        word.add(self.cost(units).wrapping_neg());
    }

    /// How many units of the burst are left at `now` for a source whose word is `arrival`.
    pub fn left(&self, arrival: u64, now: u64) -> u64 {
        match self.interval {
            0 => u64::MAX,
            interval => {
                let free = self.tolerance - self.ahead(arrival, now);
                ((u128::from(free) << FRACTION_BITS) / u128::from(interval)) as u64
            }
        }
    }

    /// Nanoseconds from `now` until the whole burst is back.
    pub fn full_after(&self, arrival: u64, now: u64) -> u64 {
        self.ahead(arrival, now) >> TICK_BITS
    }

    /// Ticks by which the time lies ahead of `now` (nanoseconds), no more than this limit allows.
    fn ahead(&self, arrival: u64, now: u64) -> u64 {
        ahead(arrival, now << TICK_BITS).min(self.tolerance)
    }

    /// Ticks that `units` take, rounded up: a limit is never exceeded by rounding.
    #[inline(always)]
    const fn cost(&self, units: u64) -> u64 {
        // At most 2^50 for one event, 2^40 * 2^20 for the bytes of a frame: no overflow.
        (self.interval.wrapping_mul(units) + ((1 << FRACTION_BITS) - 1)) >> FRACTION_BITS
    }
}

/// How far a theoretical arrival time lies ahead of now, in ticks; 0 if it has passed, however long ago, and for the
/// word 0 of a source that was never seen.
#[inline(always)]
const fn ahead(arrival: u64, now: u64) -> u64 {
    let ahead = arrival.wrapping_sub(now);
    if arrival == 0 || ahead > MAX_AHEAD { 0 } else { ahead }
}

#[cfg(test)]
mod tests;
