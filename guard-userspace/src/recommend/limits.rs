//! The limits that let a source through, and what smaller ones would do.

use guard_common::gcra::{MAX_BYTES_PER_SECOND, MAX_EVENTS_PER_SECOND};
use serde::{Deserialize, Serialize};

use super::seen::{Dimension, MINUTE, Peaks, TEN, TENS};

/// Less cuts clients that behave: docs/policy.md has the table.
pub(super) const LEAST: Limits = Limits {
    packets_per_second: 2000,
    packet_burst: 4000,
    bytes_per_second: 5 << 20,
    byte_burst: 10 << 20,
    connections_per_second: 10,
    connection_burst: 100,
    max_connections: 32,
};

/// As in `[limits.NAME]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub packets_per_second: u64,
    pub packet_burst: u64,
    pub bytes_per_second: u64,
    pub byte_burst: u64,
    pub connections_per_second: u64,
    pub connection_burst: u64,
    pub max_connections: u64,
}

impl Limits {
    /// Limits that let `headroom` times all of it through that a source with these peaks has sent, whenever within its windows it came.
    /// `watched` is for how many seconds, if that is less than a minute.
    pub(super) fn covering(peaks: &Peaks, headroom: f64, watched: u64) -> Self {
        let seconds = watched.clamp(1, MINUTE) as f64;
        let rate = |dimension: Dimension, least: u64, most: u64| {
            let minute = peaks.in_a_minute[dimension as usize] as f64;
            rounded_up(minute / seconds * headroom).clamp(least, most)
        };
        let burst = |dimension: Dimension, rate: u64, least: u64| {
            let needed = headroom * burst_needed(peaks, dimension, rate as f64 / headroom);
            rounded_up(needed).max(least).max(rate)
        };
        let packets_per_second = rate(Dimension::Packets, LEAST.packets_per_second, MAX_EVENTS_PER_SECOND);
        let bytes_per_second = rate(Dimension::Bytes, LEAST.bytes_per_second, MAX_BYTES_PER_SECOND);
        let connections_per_second =
            rate(Dimension::Openings, LEAST.connections_per_second, MAX_EVENTS_PER_SECOND);
        Self {
            packets_per_second,
            packet_burst: burst(Dimension::Packets, packets_per_second, LEAST.packet_burst),
            bytes_per_second,
            byte_burst: burst(Dimension::Bytes, bytes_per_second, LEAST.byte_burst),
            connections_per_second,
            connection_burst: burst(Dimension::Openings, connections_per_second, LEAST.connection_burst),
            max_connections: rounded_up(most_open(peaks) * headroom).max(LEAST.max_connections),
        }
    }

    /// The reasons for which so many times these limits may drop something of a source with these peaks; where there are none they drop
    /// nothing.
    pub(super) fn too_small_for(&self, peaks: &Peaks, times: f64) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        for dimension in Dimension::ALL {
            let (rate, burst) = self.of(dimension);
            let (rate, burst) = (rate as f64 * times, burst as f64 * times);
            let minute = peaks.in_a_minute[dimension as usize] as f64;
            if rate < minute / MINUTE as f64 || burst < burst_needed(peaks, dimension, rate) {
                reasons.push(reason(dimension));
            }
        }
        if (self.max_connections as f64 * times) < most_open(peaks) {
            reasons.push(guard_common::Reason::MaxConnections.name());
        }
        reasons
    }

    /// What may come in each window of ten seconds without a drop, for so many times these limits. Two such windows fit into the burst,
    /// however they lie, and more of them into what comes back meanwhile. Of windows with more no more is dropped than what is above: a
    /// limiter lets through as many packets as any choice of them that conforms.
    pub(super) fn surely_passes(&self, dimension: Dimension, times: f64) -> u64 {
        let (rate, burst) = self.of(dimension);
        ((burst as f64 * times / 2.0).min(rate as f64 * times * TEN as f64)).floor() as u64
    }

    /// Rate and burst.
    const fn of(&self, dimension: Dimension) -> (u64, u64) {
        match dimension {
            Dimension::Packets => (self.packets_per_second, self.packet_burst),
            Dimension::Bytes => (self.bytes_per_second, self.byte_burst),
            Dimension::Openings => (self.connections_per_second, self.connection_burst),
        }
    }
}

const fn reason(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Packets => guard_common::Reason::PacketRate.name(),
        Dimension::Bytes => guard_common::Reason::ByteRate.name(),
        Dimension::Openings => guard_common::Reason::ConnectionRate.name(),
    }
}

/// The burst with which nothing is dropped at this rate, which is at least that of the busiest minute.
///
/// What comes in a time lies in `n` windows of ten seconds, and the time is at least `n - 2` of them, since the first and the last may be
/// touched only. They hold no more than their number of busiest windows, and six in a row no more than the busiest minute. As a minute
/// brings no more than the rate gives back, more than twelve windows need no larger a burst.
fn burst_needed(peaks: &Peaks, dimension: Dimension, rate: f64) -> f64 {
    let (ten, minute) = (peaks.in_ten_seconds[dimension as usize], peaks.in_a_minute[dimension as usize]);
    let (ten, minute) = (ten as f64, minute as f64);
    let needed = |windows: usize| {
        let minutes = (windows - 1) / TENS;
        let rest = (windows - minutes * TENS) as f64;
        let back = rate * TEN as f64 * windows.saturating_sub(2) as f64;
        minutes as f64 * minute + (rest * ten).min(minute) - back
    };
    (1..=2 * TENS).map(needed).fold(0.0, f64::max)
}

/// How many connections may have been open at once: those that a look has found, and all that were opened and may have ended between two
/// looks.
fn most_open(peaks: &Peaks) -> f64 {
    (peaks.connections + peaks.openings()) as f64
}

/// To two digits, as people write limits.
pub(super) fn rounded_up(amount: f64) -> u64 {
    let amount = amount.ceil().max(1.0);
    let unit = 10_f64.powf((amount.log10().floor() - 1.0).max(0.0));
    ((amount / unit).ceil() * unit) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_round() {
        for (amount, expected) in [(0.0, 1), (9.2, 10), (99.0, 99), (101.0, 110), (12_345.0, 13_000)] {
            assert_eq!(rounded_up(amount), expected);
        }
    }

    #[test]
    fn who_sends_evenly_needs_two_windows_and_who_sends_at_once_hardly_more_than_one() {
        let peaks =
            |ten, minute| Peaks { in_ten_seconds: [ten; 3], in_a_minute: [minute; 3], ..Peaks::default() };
        for (ten, minute, expected) in [(600, 3600, 1200.0), (600, 600, 700.0), (0, 0, 0.0)] {
            let needed = burst_needed(&peaks(ten, minute), Dimension::Packets, minute as f64 / 60.0);
            assert_eq!(needed, expected, "{ten} of {minute}");
        }
    }

    #[test]
    fn limits_stay_within_what_a_policy_may_have() {
        let peaks = Peaks { in_ten_seconds: [1 << 50; 3], in_a_minute: [1 << 52; 3], ..Peaks::default() };
        let limits = Limits::covering(&peaks, 1000.0, 60);
        assert_eq!(limits.packets_per_second, MAX_EVENTS_PER_SECOND);
        assert_eq!(limits.bytes_per_second, MAX_BYTES_PER_SECOND);
    }
}
