//! The control socket as its clients see it: HTTP/1.1 and JSON over a unix socket.

mod client;
mod process;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::blocks::{Block, Blocked, Scope};

pub use client::{Client, ClientError, Ended};
pub use process::AgentProcess;

/// A policy to make live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The text of the policy file.
    pub policy: String,
    /// The name of the file, for messages.
    pub file: String,
    /// Milliseconds after which the policy before comes back, unless this one is confirmed; none: it stays.
    pub confirm_within: Option<u64>,
}

/// Addresses and prefixes to block, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    pub nets: Vec<IpNet>,
    pub scope: Scope,
    /// Milliseconds; none: forever.
    pub lasts: Option<u64>,
    pub reason: Option<String>,
    /// Where the caller is logged in from, which is not blocked by mistake.
    pub caller: Option<IpAddr>,
    /// Blocks whom guard would refuse to.
    pub force: bool,
    /// Closes their connections, too.
    #[serde(default)]
    pub kill: bool,
    /// Leaves out whom guard would refuse to block, and blocks the others.
    #[serde(default)]
    pub skip_protected: bool,
}

/// What was not blocked of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub net: IpNet,
    pub why: String,
}

/// What became of blocks that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAnswer {
    #[serde(flatten)]
    pub blocked: Blocked,
    /// How many connections were closed; none if that was not asked for, or the sockets could not be listed.
    #[serde(default)]
    pub killed: Option<usize>,
    /// How many connections go on and why, if some do.
    #[serde(default)]
    pub not_killed: Option<String>,
    /// What was left out, since it is protected.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

/// Addresses and prefixes whose blocks end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnblockRequest {
    pub nets: Vec<IpNet>,
}

/// A block, and what it has dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockStatus {
    #[serde(flatten)]
    pub block: Block,
    /// Packets, by all blocks of this address or prefix.
    pub dropped: u64,
}

impl From<(Block, u64)> for BlockStatus {
    fn from((block, dropped): (Block, u64)) -> Self {
        Self { block, dropped }
    }
}

/// Begins or ends to log drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDropsRequest {
    /// Milliseconds; none: it ends.
    pub lasts: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDropsAnswer {
    /// When it ends by itself, in milliseconds since the epoch; none: drops are not logged.
    pub until: Option<u64>,
}

/// What `guard detach` has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachAnswer {
    /// How many interfaces guard was on.
    pub interfaces: usize,
    /// The unit of systemd that the agent ran in.
    #[serde(default)]
    pub unit: Option<String>,
}

/// The paths of the control socket. The version is that of the answers' shapes.
pub mod path {
    pub const STATUS: &str = "/v1/status";
    pub const EXPLAIN: &str = "/v1/explain";
    pub const BLOCK: &str = "/v1/block";
    pub const UNBLOCK: &str = "/v1/unblock";
    pub const BLOCKS: &str = "/v1/blocks";
    pub const CONNECTIONS: &str = "/v1/connections";
    pub const EVENTS: &str = "/v1/events";
    pub const RECOMMEND: &str = "/v1/recommend";
    pub const OBSERVE: &str = "/v1/observe";
    pub const TOP: &str = "/v1/top";
    pub const CAPTURE: &str = "/v1/capture";
    pub const LOG_DROPS: &str = "/v1/log-drops";
    pub const RELOAD: &str = "/v1/reload";
    pub const APPLY: &str = "/v1/apply";
    pub const CONFIRM: &str = "/v1/confirm";
    pub const DETACH: &str = "/v1/detach";
}
