use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a source did too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connections at the same time.
    Connections,
    /// Packets that `allow` or `deny` refused.
    Refused,
    /// Packets over its limits.
    Limited,
}

/// A source that went past a threshold of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// As `[source]` groups addresses.
    pub source: IpNet,
    /// The service at which it was counted.
    pub service: String,
    pub kind: Kind,
    pub count: u64,
    pub threshold: u64,
    /// In which time it was counted; none for what is so at one moment.
    pub window: Option<Duration>,
    /// The addresses of the source with connections that are evidence, and how many each has; the one with most first.
    pub holders: Vec<(IpAddr, u64)>,
}

/// Why an automatic block was made: its figures, as the ledger keeps them and `guard blocks` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub kind: Kind,
    pub service: String,
    pub count: u64,
    pub threshold: u64,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// The how manieth block of this source it is, as far as it is remembered.
    pub strike: u32,
}

impl Offence {
    pub(super) fn evidence(&self, strike: u32) -> Evidence {
        let Self { source: _, service, kind, count, threshold, window, holders: _ } = self;
        Evidence {
            kind: *kind,
            service: service.clone(),
            count: *count,
            threshold: *threshold,
            window: window.map(|window| window.as_secs()),
            strike,
        }
    }

    /// The same offence, held against one address.
    pub(super) fn by(&self, (address, connections): (IpAddr, u64)) -> Self {
        let is_over = self.kind == Kind::Connections && connections > self.threshold;
        let count = if is_over { connections } else { self.count };
        Self { source: address.into(), count, holders: vec![(address, connections)], ..self.clone() }
    }

    /// As a sentence says it: `312 connections at once (limit 256)`.
    pub fn reason(&self) -> String {
        let Self { count, threshold, .. } = self;
        let what = match self.kind {
            Kind::Connections => "connections",
            Kind::Refused => "packets refused by allow or deny",
            Kind::Limited => "packets over its limits",
        };
        let time = match self.window {
            Some(window) => {
                format!("in {}", humantime::format_duration(Duration::from_secs(window.as_secs())))
            }
            None => "at once".into(),
        };
        format!("{count} {what} {time} (limit {threshold})")
    }
}

/// In a few words, beside the reason: `service vllm, 2nd block`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, strike, .. } = self;
        let ending = match (strike % 10, strike % 100) {
            (1, last) if last != 11 => "st",
            (2, last) if last != 12 => "nd",
            (3, last) if last != 13 => "rd",
            _ => "th",
        };
        write!(f, "service {service}, {strike}{ending} block")
    }
}
