//! The control socket as its clients see it: HTTP/1.1 and JSON over a unix socket.

mod client;

pub use client::{Client, ClientError};

/// The paths of the control socket. The version is that of the answers' shapes.
pub mod path {
    pub const STATUS: &str = "/v1/status";
    pub const EXPLAIN: &str = "/v1/explain";
    pub const DETACH: &str = "/v1/detach";
}
