//! What the stack of a host has counted: /proc/net/snmp.

use std::fs::read_to_string;

use anyhow::{Context, Result};

use crate::net::Host;

/// The sum of some counters, each by its protocol and its name.
///
/// # Errors
/// When there is no such counter.
pub fn sum(host: &Host, counters: &[(&str, &str)]) -> Result<u64> {
    let text = host.enter(|| read_to_string("/proc/thread-self/net/snmp").context("no statistics"))?;
    let value = |(protocol, name): &(&str, &str)| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let place = lines.next()?.split(' ').position(|word| word == *name)?;
        lines.next()?.split(' ').nth(place)?.parse::<u64>().ok()
    };
    counters.iter().map(value).sum::<Option<u64>>().with_context(|| format!("not all of {counters:?}"))
}

/// Segments that have come to TCP, over IPv4 and IPv6.
pub const SEGMENTS: (&str, &str) = ("Tcp", "InSegs");
/// Datagrams over IPv4 that somebody listened for, and those that nobody did.
pub const DATAGRAMS: [(&str, &str); 2] = [("Udp", "InDatagrams"), ("Udp", "NoPorts")];
