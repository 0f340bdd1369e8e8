//! Where one verdict ends and the next begins: a byte, a connection more or less.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use guard_common::abi::SourceKey;
use guard_common::{Address, Reason};
use guard_proof::frame::{ACK, Frame, SYN, Transport};
use guard_userspace::memory::Memory;
use guard_userspace::{config, plan};

const SOURCES: [&str; 2] = ["10.0.0.9", "fd00::9"];
const STRANGERS: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const MOST: u64 = 3;
const POLICY: &str = r#"
[[service]]
name = "model"
ports = [8000]
protocols = ["tcp", "udp"]
allow = ["10.0.0.0/8", "fd00::/16"]
limits = "client"
[limits.client]
max_connections = 3
"#;

/// What becomes of a frame from a source that has so many connections open.
fn verdict(source: &str, open: u64, frame: &[u8]) -> Result<Reason> {
    let policy = config::parse(POLICY, "guard.toml")?.policy;
    let plan = plan::compile(&policy, &BTreeMap::new())?;
    let service = &plan.services[0];
    let address = Address::from(source.parse::<IpAddr>()?);
    let key = SourceKey::new(service.id, &service.entry, address);
    let mut memory = Memory::new(plan);
    memory.set_connections(key, open);
    Ok(memory.judge(frame, 1, &mut ()).reason)
}

fn tcp(source: &str, flags: u8) -> Frame {
    Frame::new(source, Transport::Tcp { source_port: 40_000, port: 8000, flags })
}

/// The first fragment of a packet, with so many bytes from the transport header on.
fn first_fragment(whole: &Frame, bytes: usize) -> Vec<u8> {
    whole.part(0..bytes, 7).build()
}

#[test]
fn a_first_fragment_is_malformed_until_it_has_both_ports() -> Result<()> {
    for source in SOURCES.into_iter().chain(STRANGERS) {
        for whole in [tcp(source, ACK), Frame::udp(source, 8000)] {
            for bytes in 0..8 {
                let expected = match bytes {
                    0..4 => Reason::Malformed,
                    _ if SOURCES.contains(&source) => Reason::Allowed,
                    _ => Reason::NotAllowed,
                };
                let found = verdict(source, 0, &first_fragment(&whole, bytes))?;
                assert_eq!(found, expected, "{bytes} bytes of {:?} from {source}", whole.transport);
            }
        }
    }
    Ok(())
}

#[test]
fn a_fragment_without_its_flags_counts_as_a_new_connection() -> Result<()> {
    for source in SOURCES {
        for (flags, with_flags) in [(ACK, Reason::Allowed), (SYN, Reason::MaxConnections)] {
            for bytes in 4..20 {
                // The flags are the fourteenth byte.
                let expected = if bytes < 14 { Reason::MaxConnections } else { with_flags };
                let found = verdict(source, MOST, &first_fragment(&tcp(source, flags), bytes))?;
                assert_eq!(found, expected, "{bytes} bytes with flags {flags:#x} from {source}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_source_opens_as_many_connections_as_its_limit_says_and_no_more() -> Result<()> {
    for source in SOURCES {
        for open in 0..MOST + 2 {
            let expected = if open < MOST { Reason::Allowed } else { Reason::MaxConnections };
            let found = verdict(source, open, &tcp(source, SYN).build())?;
            assert_eq!(found, expected, "{source} with {open} open");
            let found = verdict(source, open, &tcp(source, ACK).build())?;
            assert_eq!(found, Reason::Allowed, "a segment of {source} with {open} open");
        }
    }
    Ok(())
}
