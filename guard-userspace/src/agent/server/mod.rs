//! The two servers of the agent: metrics over TCP, control over a unix socket.
//!
//! | module | what it does |
//! | --- | --- |
//! | `http` | HTTP/1.1 within bounds, for both |
//! | `places` | how many connections there are, and which of them gives way to a new one |
//! | `deadline` | cuts off who does not read |
//! | `control` | the control socket |
//! | `desk` | what one request over it may take, with a share for root |
//! | `ask`, `sent`, `lines` | its bodies and answers |
//! | `peer` | who asks |
//! | `readers`, `memory` | both over memory, for proofs |
//! | `metrics` | metrics and health, by a process without privileges |

mod ask;
pub(super) mod control;
mod deadline;
mod desk;
mod http;
mod lines;
mod memory;
pub(super) mod metrics;
mod peer;
mod places;
pub mod readers;
mod sent;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::limited::{self, Kind};

pub use peer::Peer;

fn refuse(failure: &anyhow::Error) -> Response {
    limited::warn(Kind::Request, || format!("{failure:#}"));
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": format!("{failure:#}") }))).into_response()
}
