//! The control socket as its clients see it: HTTP/1.1 and JSON over a unix socket.

mod client;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};

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

/// The paths of the control socket. The version is that of the answers' shapes.
pub mod path {
    pub const STATUS: &str = "/v1/status";
    pub const EXPLAIN: &str = "/v1/explain";
    pub const RELOAD: &str = "/v1/reload";
    pub const APPLY: &str = "/v1/apply";
    pub const CONFIRM: &str = "/v1/confirm";
    pub const DETACH: &str = "/v1/detach";
}
