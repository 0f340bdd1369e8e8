//! The two servers of the agent: metrics over TCP, control over a unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::unistd::{Gid, Group, chown};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tracing::{error, warn};

use super::{Engine, ExplainQuery, metrics};
use crate::control::path;

type Shared = State<Arc<Engine>>;

/// Members of this group may use the control socket.
const GROUP: &str = "guard";

/// Serves `/metrics`, `/healthz` and `/readyz` until `stopped`.
pub(super) async fn metrics(listener: TcpListener, engine: Arc<Engine>, stopped: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(engine);
    if let Err(failure) = axum::serve(listener, router).with_graceful_shutdown(until(stopped)).await {
        error!("the metrics server ended: {failure}");
    }
}

/// Serves the control socket until `stopped`.
pub(super) async fn control(listener: UnixListener, engine: Arc<Engine>, stopped: watch::Receiver<bool>) {
    let router = Router::new()
        .route(path::STATUS, get(status))
        .route(path::EXPLAIN, get(explain))
        .route(path::DETACH, post(detach))
        .with_state(engine);
    if let Err(failure) = axum::serve(listener, router).with_graceful_shutdown(until(stopped)).await {
        error!("the control server ended: {failure}");
    }
}

/// The control socket, for root and the group `guard`. The caller holds the lock of this socket, so one that lies there
/// is left over from an agent that died.
pub(super) fn bind_control(socket: &Path) -> Result<UnixListener> {
    if socket.exists() {
        fs::remove_file(socket)
            .with_context(|| format!("cannot remove the old socket {}", socket.display()))?;
    }
    let listener = UnixListener::bind(socket).with_context(|| {
        format!("cannot listen on {}: choose another path with GUARD_SOCKET", socket.display())
    })?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", socket.display()))?;
    let group: Option<Gid> = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
    if let Some(group) = group {
        chown(socket, None, Some(group))
            .with_context(|| format!("cannot give {} to the group guard", socket.display()))?;
    }
    Ok(listener)
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the agent is gone: an end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn scrape(State(engine): Shared) -> Response {
    let text = engine.status().and_then(|status| Ok(metrics::encode(&status)?));
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn healthy() -> &'static str {
    "ok\n"
}

/// Ready is an agent that can read its maps; it only listens once all is attached.
async fn ready(State(engine): Shared) -> Response {
    match engine.status() {
        Ok(_) => "ready\n".into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn status(State(engine): Shared) -> Response {
    match engine.status() {
        Ok(status) => Json(status).into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn explain(State(engine): Shared, Query(query): Query<ExplainQuery>) -> Response {
    match engine.explain(&query) {
        Ok(explanations) => Json(explanations).into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn detach(State(engine): Shared) -> Response {
    match engine.detach() {
        Ok(interfaces) => Json(json!({ "interfaces": interfaces })).into_response(),
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &anyhow::Error) -> Response {
    warn!("{failure:#}");
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": format!("{failure:#}") }))).into_response()
}
