//! `/metrics`, `/healthz` and `/readyz`, over TCP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::http::{self, Bounds};
use super::{blocking, refuse};
use crate::agent::Engine;
use crate::agent::metrics::{self, Format};

type Shared = State<Arc<Engine>>;

/// Scrapes are few and short; the rest may be anybody on this host.
const BOUNDS: Bounds =
    Bounds { connections: 32, request: Duration::from_secs(10), connection: Duration::from_secs(300) };

/// Serves until `stopped`.
pub(in crate::agent) async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .fallback(nothing_there)
        .with_state(engine);
    http::serve(listener, BOUNDS, router, |router, _| router, stopped).await;
}

async fn scrape(State(engine): Shared, headers: HeaderMap) -> Response {
    let format = Format::of(&headers);
    let read = move || {
        let (status, leaders) = (engine.status()?, engine.leaders()?);
        Ok(format.encode(&metrics::gather(&status, &leaders)?)?)
    };
    match blocking(read).await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn nothing_there() -> Response {
    (StatusCode::NOT_FOUND, "guard has /metrics, /healthz and /readyz\n").into_response()
}

/// Alive: the agent answers and is not stuck. What is wrong beside that is not mended by a restart.
async fn healthy(State(engine): Shared) -> Response {
    match engine.pulse() {
        Ok(()) => "ok\n".into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

/// Ready: every interface of the policy is guarded, and the maps, pins and links are as they should be.
async fn ready(State(engine): Shared) -> Response {
    let problems = engine.health().problems;
    if problems.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", problems.join("\n"))).into_response()
}
