//! What guard shows of itself: `guard status`, `guard status --json` and the metrics are made from this.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use guard_common::Verdict;
use guard_common::abi::{Counter, Lost, ServiceId};
use nix::net::if_::{if_indextoname, if_nametoindex};
use serde::{Deserialize, Serialize};

use crate::autoblock::Hypothetical;
use crate::blocks::BlockCounts;
use crate::config;
use crate::connections::{self, Totals};
use crate::datapath::pins::Pins;
use crate::datapath::{Attachment, Error, Fill, Maps};

/// The state of a guard at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub revision: String,
    /// Process id of the agent; none when the kernel's maps were read without one.
    pub pid: Option<u32>,
    pub uptime_seconds: Option<u64>,
    pub policy: PolicyStatus,
    /// What is not as it should be, a sentence each; empty is healthy. Without an agent nobody looks.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What is doubtful about the policy on this host, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub interfaces: Vec<InterfaceStatus>,
    /// Interfaces that packets can reach this host by, and that have no program: those that are up and have an address, but for loopback.
    #[serde(default)]
    pub unguarded: Vec<UnguardedStatus>,
    pub services: Vec<ServiceStatus>,
    /// What clients have open, by service. With thousands of clients, as of some seconds ago.
    #[serde(default)]
    pub connections: Vec<ConnectionCount>,
    /// Connections that were counted wrongly, and corrected, since the agent started.
    #[serde(default)]
    pub connection_drift: u64,
    /// Entries of blocks that another program had changed in the kernel, and that were mended, since the agent started.
    #[serde(default)]
    pub block_drift: u64,
    /// Connections that were closed since the agent started.
    #[serde(default)]
    pub sockets_killed: u64,
    /// How much is blocked.
    #[serde(default)]
    pub blocks: BlockCounts,
    /// Sources that would have been blocked, had their services not only monitored; the latest first.
    #[serde(default)]
    pub would_block: Vec<Hypothetical>,
    /// What could not be told or counted.
    #[serde(default)]
    pub lost: LostStatus,
    /// How full the tables in the kernel are.
    #[serde(default)]
    pub maps: Vec<MapStatus>,
    /// Every verdict that can be, those that were never reached included.
    pub counters: Vec<CounterStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub file: Option<String>,
    /// Counts the policies that were made live.
    pub generation: u64,
    /// Seconds since the epoch of the last policy that this agent made live.
    pub loaded_at: Option<u64>,
    /// Seconds until the policy before comes back, unless this one is confirmed.
    pub unconfirmed_for: Option<f64>,
    /// Why the last reload was refused, if it was.
    pub reload_error: Option<String>,
    /// Whether the policy file has changed, and is read once no policy awaits its confirmation.
    #[serde(default)]
    pub reload_put_off: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub index: u32,
    /// `native` or `generic`; `none` where the program is not on the interface, though it should be.
    pub mode: String,
    /// Whether frames in several buffers (large MTU) reach the program, where that is known.
    pub multi_buffer: Option<bool>,
    /// Why the mode is not the best one, or the program not there.
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnguardedStatus {
    pub name: String,
    pub index: u32,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    /// As in the policy: `8000`, `8100-8103`.
    pub ports: Vec<String>,
    pub protocols: Vec<String>,
    /// `enforce` or `monitor`.
    pub mode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCount {
    pub service: String,
    /// Connections that servers hold.
    pub connections: u64,
    /// How many sources they are of.
    pub sources: u64,
}

/// Since guard came into the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostStatus {
    /// Sampled drops and offences that the agent did not read in time.
    pub events: u64,
    /// Connections that are not counted, since their table is full.
    pub connections: u64,
    /// Lines of the agent's log since it started: the reader of its stderr is too slow.
    #[serde(default)]
    pub log_lines: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    pub map: String,
    /// Exact up to 4,096; from there on an estimate for hashes, see [`crate::datapath::Fill`].
    pub entries: u64,
    /// None for a table that grows with the policy.
    pub capacity: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Empty for traffic of no service.
    pub service: String,
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

/// The mode of an interface that the program is not on.
pub(super) const NOT_ATTACHED: &str = "none";

impl Status {
    /// What a guard in the kernel says when no agent runs.
    ///
    /// # Errors
    /// When nothing is pinned there, or it cannot be read.
    pub fn of_pins(pins: &Pins) -> Result<Self, Error> {
        let maps = Maps::open(pins)?;
        let mut status = of_maps(&maps)?;
        status.connections = of_connections(&maps, &connections::totals(maps.connections()?))?;
        let pinned = pins.pinned_links()?.into_iter().map(|(index, mode, _)| InterfaceStatus {
            name: interface_name(index),
            index,
            mode: mode.name().into(),
            multi_buffer: None,
            why: None,
        });
        status.interfaces = pinned.collect();
        Ok(status)
    }
}

fn interface_name(index: u32) -> String {
    if_indextoname(index).map_or_else(|_| "(gone)".into(), |name| name.to_string_lossy().into_owned())
}

/// What the maps alone say, without the connections.
pub(super) fn of_maps(maps: &Maps) -> Result<Status, Error> {
    let names = maps.service_names()?;
    let by_id: BTreeMap<ServiceId, &str> = names.iter().map(|(name, id)| (*id, name.as_str())).collect();
    let ids: Vec<ServiceId> = by_id.keys().copied().collect();
    let counter = |(verdict, counter): &(Verdict, Counter)| CounterStatus {
        service: by_id.get(&verdict.service).copied().unwrap_or_default().into(),
        verdict: verdict.action.name().into(),
        reason: verdict.reason.name().into(),
        packets: counter.packets,
        bytes: counter.bytes,
    };
    let live = maps.live()?;
    let policy = PolicyStatus {
        generation: live.generation,
        unconfirmed_for: live.unconfirmed_for.map(|left| left.as_secs_f64()),
        ..PolicyStatus::default()
    };
    let map =
        |fill: Fill| MapStatus { map: fill.table.into(), entries: fill.entries, capacity: fill.capacity };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("GUARD_REVISION").into(),
        policy,
        lost: LostStatus {
            events: maps.lost(Lost::Sample)? + maps.lost(Lost::Offence)? + maps.lost(Lost::Surplus)?,
            connections: maps.lost(Lost::Connection)?,
            log_lines: 0,
        },
        maps: maps.fill()?.into_iter().map(map).collect(),
        counters: maps.counters(&ids)?.values().map(counter).collect(),
        ..Status::default()
    })
}

/// Of every service, those without connections included.
pub(super) fn of_connections(
    maps: &Maps,
    totals: &BTreeMap<ServiceId, Totals>,
) -> Result<Vec<ConnectionCount>, Error> {
    let count = |(service, id): (String, ServiceId)| {
        let Totals { connections, sources } = totals.get(&id).copied().unwrap_or_default();
        ConnectionCount { service, connections, sources }
    };
    Ok(maps.service_names()?.into_iter().map(count).collect())
}

pub(super) fn of_attachment(attachment: &Attachment) -> InterfaceStatus {
    InterfaceStatus {
        name: attachment.interface.clone(),
        index: attachment.index,
        mode: attachment.mode.name().into(),
        multi_buffer: Some(attachment.multi_buffer),
        why: attachment.why.clone(),
    }
}

/// An interface that should be guarded and is not.
pub(super) fn of_refused(name: &str, why: &str) -> InterfaceStatus {
    InterfaceStatus {
        name: name.into(),
        index: if_nametoindex(name).unwrap_or(0),
        mode: NOT_ATTACHED.into(),
        multi_buffer: None,
        why: Some(why.into()),
    }
}

pub(super) fn of_service(service: &config::Service) -> ServiceStatus {
    let port = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    ServiceStatus {
        name: service.name.clone(),
        ports: service.ports.iter().map(port).collect(),
        protocols: service.protocols.iter().map(|protocol| protocol.name().into()).collect(),
        mode: service.mode.name().into(),
    }
}
