//! What was seen of each service.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Sums are taken over so many seconds, one after the other.
pub(super) const WINDOWS: [u64; 3] = [1, 10, 60];
/// The place of ten seconds among them.
pub(super) const TEN: usize = 1;
/// The place of a minute.
pub(super) const MINUTE: usize = 2;

/// So many of the sources that send most are known by name.
const LEADERS: usize = 8;

/// What is limited for each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    Packets = 0,
    Bytes = 1,
    /// New TCP connections.
    Openings = 2,
}

impl Dimension {
    pub const ALL: [Self; 3] = [Self::Packets, Self::Bytes, Self::Openings];
}

/// What one source had at most: by dimension and window, and open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    pub sums: [[u64; WINDOWS.len()]; Dimension::ALL.len()],
    pub connections: u64,
}

impl Peaks {
    pub fn of(&self, dimension: Dimension, window: usize) -> u64 {
        self.sums[dimension as usize][window]
    }

    pub fn max(mut self, other: &Self) -> Self {
        for (sums, others) in self.sums.iter_mut().zip(&other.sums) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = (*sum).max(*other);
            }
        }
        self.connections = self.connections.max(other.connections);
        self
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
    /// Packets that a source sent within ten seconds.
    pub in_ten_seconds: Histogram,
    /// New connections likewise.
    pub openings_in_ten_seconds: Histogram,
    /// Packets that a source sent within a minute.
    pub in_a_minute: Histogram,
    /// Those that sent most within ten seconds.
    pub leaders: BTreeMap<IpNet, Peaks>,
    /// All others together.
    pub rest: Peaks,
}

impl Profile {
    pub fn begin(since: u64) -> Self {
        Self { since, ..Self::default() }
    }

    /// Notes what a source had at most by now.
    pub fn note(&mut self, source: IpNet, peaks: &Peaks) {
        let known = self.leaders.remove(&source).unwrap_or_default();
        self.leaders.insert(source, known.max(peaks));
        if self.leaders.len() <= LEADERS {
            return;
        }
        // By one window: others may not be over yet for all.
        let rank = |peaks: &Peaks| peaks.of(Dimension::Packets, TEN);
        let least = self.leaders.iter().min_by_key(|(_, peaks)| rank(peaks)).map(|(source, _)| *source);
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
    const VERSION: u32 = 1;

    /// Nothing, if another build wrote it in another form.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|seen: &Self| seen.version == Self::VERSION)
    }
}
