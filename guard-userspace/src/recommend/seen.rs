//! What was seen of each service.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Seconds of the short window. One follows the other.
pub(super) const TEN: u64 = 10;
/// Seconds of the long window: any so many short ones that follow each other, so that it slides by ten seconds.
pub(super) const MINUTE: u64 = TEN * TENS as u64;
/// Short windows in a long one.
pub(super) const TENS: usize = 6;

/// So many of the sources that send most are known by name.
const LEADERS: usize = 8;

/// What is limited for each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Packets = 0,
    Bytes = 1,
    /// New TCP connections.
    Openings = 2,
}

impl Dimension {
    pub(super) const ALL: [Self; 3] = [Self::Packets, Self::Bytes, Self::Openings];
}

/// By dimension.
pub(super) type Amounts = [u64; Dimension::ALL.len()];

/// What one source had at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Within ten seconds, by dimension.
    pub in_ten_seconds: Amounts,
    /// Within a minute, by dimension.
    pub in_a_minute: Amounts,
    /// Open at the same time.
    pub connections: u64,
    /// When the ten seconds with most packets ended, in milliseconds since the epoch.
    pub at: u64,
}

impl Peaks {
    /// The larger of each.
    pub fn max(self, other: &Self) -> Self {
        let larger = |one: Amounts, other: Amounts| std::array::from_fn(|at| one[at].max(other[at]));
        Self {
            in_ten_seconds: larger(self.in_ten_seconds, other.in_ten_seconds),
            in_a_minute: larger(self.in_a_minute, other.in_a_minute),
            connections: self.connections.max(other.connections),
            at: if other.packets() > self.packets() { other.at } else { self.at },
        }
    }

    /// Within ten seconds: by these sources are ranked.
    pub fn packets(&self) -> u64 {
        self.in_ten_seconds[Dimension::Packets as usize]
    }

    pub(super) fn openings(&self) -> u64 {
        self.in_ten_seconds[Dimension::Openings as usize]
    }
}

/// What was seen of a service, of the sources that it lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// When it began, in milliseconds since the epoch.
    pub since: u64,
    /// For how long it was watched.
    pub seconds: u64,
    /// How many sources sent something; one that comes again after a restart of the agent counts again.
    pub sources: u64,
    pub packets: u64,
    /// Packets that were dropped meanwhile, or would have been where the service only monitors, and of how many sources.
    pub dropped: u64,
    pub sources_dropped: u64,
    /// Packets that a source sent within ten seconds: all of these windows.
    pub packets_in_ten_seconds: Histogram,
    /// New connections likewise.
    pub openings_in_ten_seconds: Histogram,
    /// The largest of these windows of each source.
    pub most_packets: Histogram,
    pub most_openings: Histogram,
    /// Those that sent most within ten seconds.
    pub leaders: BTreeMap<IpNet, Peaks>,
    /// All others together.
    pub rest: Peaks,
}

impl Profile {
    pub fn begin(since: u64) -> Self {
        Self { since, ..Self::default() }
    }

    /// Notes what a source has had at most by now, and had when it was noted before.
    pub fn note(&mut self, source: IpNet, before: &Peaks, peaks: &Peaks) {
        self.most_packets.replace(before.packets(), peaks.packets());
        self.most_openings.replace(before.openings(), peaks.openings());
        let known = self.leaders.remove(&source).unwrap_or_default();
        self.leaders.insert(source, known.max(peaks));
        if self.leaders.len() <= LEADERS {
            return;
        }
        let least = self.leaders.iter().min_by_key(|(_, peaks)| peaks.packets()).map(|(source, _)| *source);
        if let Some(peaks) = least.and_then(|least| self.leaders.remove(&least)) {
            self.rest = self.rest.max(&peaks);
        }
    }
}

/// By the names of services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    version: u32,
    pub services: BTreeMap<String, Profile>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { version: Self::VERSION, services: BTreeMap::new() }
    }
}

impl Seen {
    const VERSION: u32 = 2;

    /// Nothing, if another build wrote it in another form.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|seen: &Self| seen.version == Self::VERSION)
    }
}
