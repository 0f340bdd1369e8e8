//! The two servers of the agent: metrics over TCP, control over a unix socket.

pub(super) mod control;
mod http;
mod lines;
pub(super) mod metrics;
mod peer;

use anyhow::{Context, Result};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tracing::warn;

pub use peer::Peer;

/// Runs work that waits for the kernel where it holds up nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the agent failed at this request; its log says more")?
}

fn answer(result: Result<impl Serialize>) -> Response {
    match result {
        Ok(body) => Json(body).into_response(),
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &anyhow::Error) -> Response {
    warn!("{failure:#}");
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": format!("{failure:#}") }))).into_response()
}
