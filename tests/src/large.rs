//! Policies and blocks of the size that guard is made for.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use guard_common::abi::{Block, End};
use ipnet::IpNet;

use crate::bpf::random_sources::Range;

/// A policy of one service, on TCP port 8000, that allows `prefixes` networks of 128 addresses, one in each /24 from 10.0.0.0 on, and
/// the range that [`blocks`] are of.
pub fn policy(prefixes: u32) -> String {
    limited(prefixes, "packets_per_second = 10000000")
}

/// The same with another limit.
pub fn limited(prefixes: u32, limit: &str) -> String {
    let mut allow = String::from("\"100.64.0.0/10\"");
    for number in 0..prefixes {
        // Writing to a string cannot fail.
        let _ = write!(allow, ",\n\"{}\"", prefix(number));
    }
    format!(
        "[[service]]\nname = \"large\"\nports = [8000]\nallow = [{allow}]\nlimits = \"own\"\n[limits.own]\n{limit}\n"
    )
}

/// The rules of nftables that allow the same prefixes, in the place of those before.
pub fn nft_rules(prefixes: u32) -> String {
    let mut elements = String::from("100.64.0.0/10");
    for number in 0..prefixes {
        // Writing to a string cannot fail.
        let _ = write!(elements, ", {}", prefix(number));
    }
    format!(
        "add table inet guard\nflush table inet guard\ndelete table inet guard\ntable inet guard {{\n\
         set allowed {{\ntype ipv4_addr\nflags interval\nelements = {{ {elements} }}\n}}\n\
         chain input {{\ntype filter hook input priority 0; policy accept\n\
         tcp dport 8000 ip saddr != @allowed drop\n}}\n}}\n"
    )
}

/// The prefix of this number.
pub fn prefix(number: u32) -> String {
    format!("{}/25", address(number, 0))
}

/// An address within the prefix of this number.
pub fn allowed(number: u32) -> String {
    address(number, 7).to_string()
}

/// An address between this prefix and the next.
pub fn stranger(number: u32) -> String {
    address(number, 200).to_string()
}

/// An address within each of the first prefixes.
pub const fn clients(count: u32) -> Range {
    Range { first: address(0, 7).to_bits(), count, shift: 8 }
}

/// An address behind each of the first prefixes.
pub const fn strangers(count: u32) -> Range {
    Range { first: address(0, 200).to_bits(), count, shift: 8 }
}

/// The addresses of the first blocks.
pub const fn blocked_range(count: u32) -> Range {
    Range { first: address_in(0).to_bits(), count, shift: 0 }
}

/// Blocks of as many addresses, forever, at the guarded ports.
pub fn blocks(count: u32) -> Vec<(IpNet, Block)> {
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    (0..count).map(|number| (IpNet::from(std::net::IpAddr::V4(address_in(number))), forever)).collect()
}

/// The address of the block of this number; all lie in 100.64.0.0/10.
pub fn blocked(number: u32) -> String {
    address_in(number).to_string()
}

const fn address(number: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((10 << 24) + (number << 8) + host)
}

const fn address_in(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((100 << 24) + (64 << 16) + number)
}
