//! Dropped packets as a capture: what is asked for, how it comes from the agent, and the file that it becomes.

mod file;

use std::net::IpAddr;

use guard_common::Reason;
use guard_common::watch::Reasons;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use file::CaptureFile;
pub use guard_common::abi::SHOWN;

/// Which dropped packets are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureQuery {
    /// Names of reasons, with commas between; none: all.
    pub reasons: Option<String>,
    /// Of this service.
    pub service: Option<String>,
    /// From this prefix.
    pub source: Option<IpNet>,
}

/// What comes from the agent, one object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// From now on drops are captured.
    Begin {
        /// The guarded interfaces.
        interfaces: Vec<String>,
    },
    Packet(CapturedPacket),
    Missed(Missed),
}

/// A packet that was dropped, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// Where it arrived.
    pub interface: String,
    /// `drop` or `would_drop`.
    pub verdict: String,
    pub reason: String,
    /// Empty for traffic of no service.
    pub service: String,
    /// Of the whole frame, in bytes.
    pub length: u32,
    /// Its beginning.
    #[serde(with = "hex")]
    pub frame: Vec<u8>,
}

/// How many packets were wanted and are not in the capture, since its beginning. Where several captures run, those of the others may be
/// among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// There were more at once than a CPU shows.
    pub left_out: u64,
    /// They were shown, and nobody had read what was shown before.
    pub lost: u64,
}

/// The reasons why packets are dropped.
pub fn reasons() -> impl Iterator<Item = Reason> {
    Reason::ALL.into_iter().filter(|reason| reason.drops())
}

/// The reasons of these names.
///
/// # Errors
/// With the first name that is none.
pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Reasons, &'a str> {
    let named = |name| reasons().find(|reason| reason.name() == name).ok_or(name);
    names.into_iter().map(named).collect()
}

/// A prefix as the kernel has it: the address, and how many bits of its mapped form count.
pub(crate) fn mapped(net: IpNet) -> (IpAddr, u32) {
    let mapped = match net {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    (net.network(), mapped + u32::from(net.prefix_len()))
}

/// Bytes as hexadecimal digits.
mod hex {
    use std::fmt::Write as _;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.ok_or_else(|| D::Error::custom("these are no pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_arrives_as_it_was_sent() {
        let packet = CapturedPacket {
            at: 1_700_000_000_123_456_789,
            interface: "eth0".into(),
            verdict: "drop".into(),
            reason: "denied".into(),
            service: "web".into(),
            length: 1514,
            frame: (0..=u8::MAX).collect(),
        };
        let line = Line::Packet(packet);
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.contains(r#""kind":"packet""#) && text.contains("000102"), "{text}");
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        for bad in ["0", "zz", "é0"] {
            let text = text.replace("000102", bad);
            assert!(serde_json::from_str::<Line>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_reasons_for_drops_are_named() {
        assert_eq!(named(["denied"]), Ok(Reasons::of(Reason::Denied)));
        assert_eq!(named(reasons().map(Reason::name)), Ok(Reasons::all()));
        assert_eq!(named(["denied", "allowed"]), Err("allowed"));
    }
}
