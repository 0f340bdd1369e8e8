//! The ports from which the kernel opens connections for programs of this host.

use std::fs;
use std::ops::RangeInclusive;

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports that the kernel may give to a connection going out, of this thread's network namespace. IPv6 uses the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPorts {
    /// None where the kernel does not tell.
    pub range: Option<RangeInclusive<u16>>,
    /// What the kernel leaves out of the range.
    pub reserved: Vec<RangeInclusive<u16>>,
}

impl LocalPorts {
    #[must_use]
    pub fn read() -> Self {
        let read = |file| fs::read_to_string(file).ok();
        Self {
            range: read(RANGE).and_then(|text| range(&text)),
            reserved: read(RESERVED).map(|text| reserved(&text)).unwrap_or_default(),
        }
    }

    /// Whether the kernel may choose this port.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        self.range.as_ref().is_some_and(|range| range.contains(&port))
            && !self.reserved.iter().any(|reserved| reserved.contains(&port))
    }
}

/// As the kernel writes `ip_local_port_range`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(|separator: char| separator.is_ascii_whitespace())?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

/// As the kernel writes `ip_local_reserved_ports`: `8080,50000-50100`.
fn reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let ports = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(ports).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_ports_is_read_as_the_kernel_writes_it() {
        let cases = [
            ("32768\t60999\n", Some(32768..=60999)),
            ("1 65535", Some(1..=65535)),
            ("", None),
            ("1\n", None),
            ("1 65536", None),
        ];
        for (text, expected) in cases {
            assert_eq!(range(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_reserved_port_is_not_chosen() {
        let ports = LocalPorts { range: Some(32768..=60999), reserved: reserved("40000,50000-50100\n") };
        let cases =
            [(32767, false), (32768, true), (40000, false), (49999, true), (50100, false), (61000, false)];
        for (port, expected) in cases {
            assert_eq!(ports.has(port), expected, "{port}");
        }
        assert_eq!(reserved("\n"), []);
        assert!(!LocalPorts::default().has(40000), "an unknown range has no ports");
    }
}
