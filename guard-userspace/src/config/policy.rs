//! A policy that was checked. Every default is filled in; what is here, guard can enforce.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::json;
use super::keyword::{AttachMode, BlockScope, LogFormat, LogLevel, OnExit, Protocol, ServiceMode};

/// The interface that stands for those of the default routes.
pub const DEFAULT_ROUTE: &str = "default-route";

/// What guard is to do. As JSON it has the tables and keys of the policy file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub attach: Attach,
    #[serde(rename = "service")]
    pub services: Vec<Service>,
    /// By name; each holds per source.
    pub limits: BTreeMap<String, Limits>,
    pub source: SourceGrouping,
    /// Never limited, never blocked.
    #[serde(serialize_with = "json::trusted")]
    pub trusted: Vec<Prefix>,
    pub autoblock: Autoblock,
    pub capacity: Capacity,
    pub metrics: Metrics,
    pub log: Log,
}

/// A network, and where the policy file names it. Two are equal if their networks are.
#[derive(Clone, Copy)]
pub struct Prefix {
    pub net: IpNet,
    /// Line in the policy file, from 1; none for what a flag says.
    pub line: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attach {
    /// Names, patterns (`eth*`), or [`DEFAULT_ROUTE`].
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub on_exit: OnExit,
    /// Guard may start, and take a new policy, before the interfaces that it names are there.
    pub allow_missing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub name: String,
    /// Sorted; ranges that touch are one.
    #[serde(serialize_with = "json::ports")]
    pub ports: Vec<RangeInclusive<u16>>,
    pub protocols: Vec<Protocol>,
    pub mode: ServiceMode,
    pub allow: Vec<Prefix>,
    pub deny: Vec<Prefix>,
    /// Only packets to these addresses are for the service; empty: those to any.
    pub destinations: Vec<Prefix>,
    /// Name of the limits of a source that no entry of `sources` names.
    pub limits: Option<String>,
    pub sources: Vec<SourceLimits>,
}

/// Other limits for some of the allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceLimits {
    pub prefix: Prefix,
    pub limits: String,
}

/// The limits of one source. What is left out is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub packets: Option<Rate>,
    pub bytes: Option<Rate>,
    /// New TCP connections.
    pub connections: Option<Rate>,
    /// Open TCP connections.
    pub max_connections: Option<u32>,
}

/// `burst` at once, then `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u64,
    pub burst: u64,
}

/// How many leading bits of an address make one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SourceGrouping {
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Autoblock {
    pub enabled: bool,
    /// A source with more connections at the same time is blocked; none: what the limits let in is no offence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// A source with this many packets a minute refused by `allow` or `deny` is blocked.
    pub refused_per_minute: u32,
    /// ... or with this many packets a minute over its limits.
    pub limited_per_minute: u32,
    /// Of the first block; doubles each time.
    #[serde(serialize_with = "json::duration")]
    pub duration: Duration,
    #[serde(serialize_with = "json::duration")]
    pub max_duration: Duration,
    /// A source that was quiet for so long starts again with `duration`.
    #[serde(serialize_with = "json::duration")]
    pub forget_after: Duration,
    pub scope: BlockScope,
    /// Also close the sockets of a source that gets blocked.
    pub kill: bool,
    /// Never blocked automatically.
    pub never: Vec<Prefix>,
}

/// For how many entries the tables in the kernel are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Blocked addresses, and as many blocked prefixes.
    pub blocks: u32,
    /// Sources whose rates are tracked.
    pub sources: u32,
    /// Sources with open connections.
    pub connections: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metrics {
    pub listen: SocketAddr,
    /// So many sources with most packets, drops and connections are among the metrics, by their addresses.
    pub top_sources: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

impl Default for Attach {
    fn default() -> Self {
        Self {
            interfaces: vec![DEFAULT_ROUTE.into()],
            mode: AttachMode::default(),
            on_exit: OnExit::default(),
            allow_missing: false,
        }
    }
}

impl Default for SourceGrouping {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64 }
    }
}

impl Default for Autoblock {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            enabled: true,
            connections: None,
            refused_per_minute: 6000,
            limited_per_minute: 6000,
            duration: Duration::from_secs(600),
            max_duration: Duration::from_secs(24 * HOUR),
            forget_after: Duration::from_secs(24 * HOUR),
            scope: BlockScope::default(),
            kill: true,
            never: Vec::new(),
        }
    }
}

impl Capacity {
    /// Bytes that the kernel takes for the tables when they are made, full or not. Measured: docs/performance.md.
    pub const fn memory(&self) -> u64 {
        const BLOCK: u64 = 80;
        const SOURCE: u64 = 104;
        // The socket, the client's end, and the source.
        const CONNECTION: [u64; 3] = [104, 80, 80];
        let [socket, flow, client] = CONNECTION;
        let connections =
            table(self.connections, socket) + table(self.connections, flow) + table(self.connections, client);
        table(self.blocks, BLOCK) + table(self.sources, SOURCE) + connections
    }
}

/// A hash: its elements, and a bucket for each, up to the next power of two.
const fn table(entries: u32, element: u64) -> u64 {
    const BUCKET: u64 = 16;
    let entries = entries as u64;
    entries * element + entries.next_power_of_two() * BUCKET
}

impl Default for Capacity {
    fn default() -> Self {
        Self { blocks: 1 << 20, sources: 1 << 18, connections: 1 << 17 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9455), top_sources: 0 }
    }
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.net == other.net
    }
}

impl Eq for Prefix {}

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.net.hash(state);
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line})", self.net),
            None => write!(f, "{}", self.net),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)
    }
}
