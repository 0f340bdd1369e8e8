//! A policy as JSON: what scripts read.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::policy::{Limits, Prefix, Rate};
use super::units;

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.net.serialize(serializer)
    }
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut rate = |rate: Option<Rate>, per_second, burst| {
            rate.map_or(Ok(()), |rate| {
                map.serialize_entry(per_second, &rate.per_second)?;
                map.serialize_entry(burst, &rate.burst)
            })
        };
        rate(self.packets, "packets_per_second", "packet_burst")?;
        rate(self.bytes, "bytes_per_second", "byte_burst")?;
        rate(self.connections, "connections_per_second", "connection_burst")?;
        if let Some(connections) = self.max_connections {
            map.serialize_entry("max_connections", &connections)?;
        }
        map.end()
    }
}

pub(super) fn trusted<S: Serializer>(prefixes: &[Prefix], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("prefixes", prefixes)?;
    map.end()
}

pub(super) fn ports<S: Serializer>(ports: &[RangeInclusive<u16>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Port {
        One(u16),
        Range(String),
    }
    serializer.collect_seq(ports.iter().map(|range| {
        if range.start() == range.end() {
            Port::One(*range.start())
        } else {
            Port::Range(units::port_range(range))
        }
    }))
}

pub(super) fn duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::duration(*duration))
}
