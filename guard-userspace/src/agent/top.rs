//! Who sends how much at this moment: what `guard top` asks of the agent, and what it gets.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::status::Status;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopQuery {
    /// By what the first sources are chosen.
    #[serde(default)]
    pub sort: Sort,
    /// So many sources at most.
    #[serde(default = "TopQuery::default_count")]
    pub count: usize,
    /// Sources in this prefix alone.
    pub within: Option<IpNet>,
}

impl TopQuery {
    /// More than fit on any screen.
    pub const MOST: usize = 1000;

    const fn default_count() -> usize {
        100
    }

    /// As the query of a URL.
    pub fn to_query(&self) -> String {
        let Self { sort, count, within } = self;
        let within = within.map(|net| format!("&within={net}")).unwrap_or_default();
        format!("sort={}&count={count}{within}", sort.name())
    }
}

impl Default for TopQuery {
    fn default() -> Self {
        Self { sort: Sort::default(), count: Self::default_count(), within: None }
    }
}

/// By what sources are sorted, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    #[default]
    Packets,
    Bytes,
    Openings,
    Dropped,
    Connections,
    Limit,
}

impl Sort {
    pub const ALL: [Self; 6] =
        [Self::Packets, Self::Bytes, Self::Openings, Self::Dropped, Self::Connections, Self::Limit];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Openings => "openings",
            Self::Dropped => "dropped",
            Self::Connections => "connections",
            Self::Limit => "limit",
        }
    }

    /// The figure of a source that it is sorted by.
    pub fn of(self, source: &SourceRate) -> f64 {
        match self {
            Self::Packets => source.packets_per_second,
            Self::Bytes => source.bytes_per_second,
            Self::Openings => source.openings_per_second,
            Self::Dropped => source.dropped_per_second,
            Self::Connections => source.connections as f64,
            Self::Limit => source.limit_used.unwrap_or(0.0),
        }
    }
}

/// What happens at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    pub status: Status,
    /// What the rates are of: so many seconds until now. 0: nothing is known yet, ask again in a second.
    pub seconds: f64,
    /// By service, verdict and reason; those that are 0 are left out.
    pub counters: Vec<CounterRate>,
    /// How many sources sent something in that time, or have a connection.
    pub source_count: usize,
    /// The first of them.
    pub sources: Vec<SourceRate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterRate {
    /// Empty for traffic of no service.
    pub service: String,
    pub verdict: String,
    pub reason: String,
    pub packets_per_second: f64,
    pub bytes_per_second: f64,
}

/// What a source sends to a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRate {
    pub source: IpNet,
    pub service: String,
    /// Those that pass and those that do not.
    pub packets_per_second: f64,
    pub bytes_per_second: f64,
    /// New TCP connections that it asks for.
    pub openings_per_second: f64,
    /// Packets that are dropped, or would be.
    pub dropped_per_second: f64,
    /// TCP connections that are open.
    pub connections: u64,
    /// How much of its limits is used, of the one that has least left: from 0 to 1. None: it has none, or the agent may not read them.
    pub limit_used: Option<f64>,
    pub blocked: bool,
}

impl SourceRate {
    /// The address that stands for it.
    pub fn address(&self) -> IpAddr {
        self.source.addr()
    }
}
