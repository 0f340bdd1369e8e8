//! Dropped packets, as the kernel samples them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use guard_common::Action;
use guard_common::abi::{Sample, ServiceId};
use serde::{Deserialize, Serialize};

/// So many are kept: about 1 MB.
const KEPT: usize = 4096;

/// IANA's numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet that was dropped, or would be, and how many like it there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Milliseconds since the epoch.
    pub at: u64,
    pub source: IpAddr,
    pub source_port: Option<u16>,
    pub port: Option<u16>,
    /// `tcp`, `udp`, or none where ports were not read.
    pub protocol: Option<String>,
    /// Empty for traffic of no service.
    pub service: String,
    /// `drop` or `would_drop`.
    pub verdict: String,
    pub reason: String,
    /// Packets of this source for this reason since the sample before, this one included.
    pub packets: u64,
    /// Of this packet, in bytes.
    pub length: u32,
}

impl Dropped {
    /// Nothing, if a later build wrote the sample. `at` is the sample's time, in milliseconds since the epoch.
    pub fn of_sample(sample: &Sample, at: u64, services: &BTreeMap<ServiceId, String>) -> Option<Self> {
        let protocol = match sample.protocol {
            TCP => Some("tcp"),
            UDP => Some("udp"),
            _ => None,
        };
        let action = if sample.passed == 0 { Action::Drop } else { Action::WouldDrop };
        Some(Self {
            at,
            source: sample.source().into(),
            source_port: protocol.map(|_| sample.source_port),
            port: protocol.map(|_| sample.port),
            protocol: protocol.map(Into::into),
            service: services.get(&sample.service()).cloned().unwrap_or_default(),
            verdict: action.name().into(),
            reason: sample.reason()?.name().into(),
            packets: sample.packets,
            length: sample.length,
        })
    }
}

/// In one line, without the time and how many there were: `drop 10.66.1.2:40000 to tcp port 8000 (web): not_allowed, 60 bytes`.
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, source_port, port, protocol, service, verdict, reason, length, .. } = self;
        match source_port {
            Some(port) => write!(f, "{verdict} {}", SocketAddr::new(*source, *port))?,
            None => write!(f, "{verdict} {source}")?,
        }
        if let (Some(protocol), Some(port)) = (protocol, port) {
            write!(f, " to {protocol} port {port}")?;
        }
        if !service.is_empty() {
            write!(f, " ({service})")?;
        }
        write!(f, ": {reason}, {length} bytes")
    }
}

/// The last samples, each with a number that grows.
#[derive(Debug, Default)]
pub struct RecentDrops {
    kept: VecDeque<Dropped>,
    /// The number of the next one.
    next: u64,
}

impl RecentDrops {
    pub fn add(&mut self, dropped: impl IntoIterator<Item = Dropped>) {
        for dropped in dropped {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(dropped);
            self.next += 1;
        }
    }

    /// The number that the next one will have.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Those with this number or a higher one, the newest last.
    pub fn since(&self, number: u64) -> impl DoubleEndedIterator<Item = &Dropped> {
        let first = self.next - self.kept.len() as u64;
        let skipped = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(packets: u64) -> Dropped {
        let sample = Sample { packets, protocol: TCP, reason: 6, ..Sample::default() };
        Dropped::of_sample(&sample, 0, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn the_last_ones_are_kept_by_their_numbers() {
        let mut recent = RecentDrops::default();
        assert_eq!(recent.since(0).count(), 0);
        recent.add((0..10).map(dropped));
        assert_eq!(recent.since(7).map(|dropped| dropped.packets).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(recent.since(recent.next()).count(), 0);
        assert_eq!(recent.since(u64::MAX).count(), 0);
        recent.add((10..5000).map(dropped));
        assert_eq!((recent.next(), recent.since(0).count()), (5000, KEPT));
        assert_eq!(recent.since(4999).map(|dropped| dropped.packets).collect::<Vec<_>>(), [4999]);
    }

    #[test]
    fn a_sample_of_a_later_build_is_left_out() {
        let sample = Sample { reason: 200, ..Sample::default() };
        assert_eq!(Dropped::of_sample(&sample, 0, &BTreeMap::new()), None);
    }
}
