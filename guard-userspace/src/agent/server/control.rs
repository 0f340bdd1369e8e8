//! The control socket: what the commands ask of the agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use nix::unistd::{Gid, Group, chown};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::http::{self, Bounds};
use super::lines::Lines;
use super::peer::Peer;
use super::{answer, blocking, refuse};
use crate::agent::engine::ApplyError;
use crate::agent::top::TopQuery;
use crate::agent::{CaptureError, Engine, ExplainQuery};
use crate::blocks::RegisterError;
use crate::capture::CaptureQuery;
use crate::control::{ApplyRequest, BlockRequest, LogDropsAnswer, LogDropsRequest, UnblockRequest, path};
use crate::events::EntryQuery;
use crate::recommend::{ObserveRequest, RecommendQuery};

type Shared = State<Arc<Engine>>;
type Caller = Extension<Peer>;

/// Members of this group may use the control socket.
const GROUP: &str = "guard";

const BOUNDS: Bounds =
    Bounds { connections: 32, request: Duration::from_secs(60), connection: Duration::from_secs(24 * 3600) };

/// How long who waits for events may wait for an answer, and how often it is looked for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// A policy of 100,000 prefixes takes 2 MB, a list of a million addresses to block 16 MB.
const MAX_BODY: usize = 64 << 20;

/// Serves until `stopped`.
pub(in crate::agent) async fn serve(
    listener: UnixListener,
    engine: Arc<Engine>,
    stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route(path::STATUS, get(status))
        .route(path::EXPLAIN, get(explain))
        .route(path::BLOCK, post(block))
        .route(path::UNBLOCK, post(unblock))
        .route(path::BLOCKS, get(blocks))
        .route(path::CONNECTIONS, get(connections))
        .route(path::EVENTS, get(events))
        .route(path::TOP, get(top))
        .route(path::RECOMMEND, get(recommend))
        .route(path::OBSERVE, post(observe))
        .route(path::CAPTURE, get(capture))
        .route(path::LOG_DROPS, post(log_drops))
        .route(path::RELOAD, post(reload))
        .route(path::APPLY, post(apply))
        .route(path::CONFIRM, post(confirm))
        .route(path::DETACH, post(detach))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(engine);
    let prepare = |router: Router, stream: &tokio::net::UnixStream| match Peer::of(stream) {
        Some(peer) => router.layer(Extension(peer)),
        // Who cannot be named gets no further than an error.
        None => router,
    };
    http::serve(listener, BOUNDS, router, prepare, stopped).await;
}

/// The control socket, for root and the group `guard`. The caller holds the lock of this socket, so one that lies there
/// is left over from an agent that died.
pub(in crate::agent) fn bind(socket: &Path) -> Result<StdUnixListener> {
    if socket.exists() {
        fs::remove_file(socket)
            .with_context(|| format!("cannot remove the old socket {}", socket.display()))?;
    }
    let listener = StdUnixListener::bind(socket).with_context(|| {
        format!("cannot listen on {}: choose another path with GUARD_SOCKET", socket.display())
    })?;
    listener.set_nonblocking(true).context("cannot prepare the control socket")?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", socket.display()))?;
    let group: Option<Gid> = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
    if let Some(group) = group {
        chown(socket, None, Some(group))
            .with_context(|| format!("cannot give {} to the group guard", socket.display()))?;
    }
    Ok(listener)
}

async fn status(State(engine): Shared) -> Response {
    answer(blocking(move || engine.status()).await)
}

async fn explain(State(engine): Shared, Query(query): Query<ExplainQuery>) -> Response {
    answer(blocking(move || engine.explain(&query)).await)
}

async fn block(
    State(engine): Shared,
    Extension(peer): Caller,
    Json(request): Json<BlockRequest>,
) -> Response {
    answer(blocking(move || engine.block(&request, &peer)).await)
}

async fn unblock(
    State(engine): Shared,
    Extension(peer): Caller,
    Json(request): Json<UnblockRequest>,
) -> Response {
    match blocking(move || Ok(engine.unblock(&request.nets, &peer))).await {
        Ok(Ok(unblocked)) => Json(unblocked).into_response(),
        Ok(Err(error @ RegisterError::NotBlocked { .. })) => not_found(&error.to_string()),
        Ok(Err(error)) => refuse(&error.into()),
        Err(failure) => refuse(&failure),
    }
}

async fn blocks(State(engine): Shared) -> Response {
    answer(blocking(move || engine.blocks()).await)
}

async fn connections(State(engine): Shared) -> Response {
    answer(blocking(move || engine.connections()).await)
}

/// Waits for something new, if it is asked to.
async fn events(State(engine): Shared, Query(query): Query<EntryQuery>) -> Response {
    let wait = Duration::from_millis(query.wait.unwrap_or(0)).min(LONGEST_WAIT);
    let deadline = Instant::now() + wait;
    loop {
        let (asked, query) = (Arc::clone(&engine), query.clone());
        let page = blocking(move || asked.events(&query)).await;
        let has_something = page.as_ref().is_ok_and(|page| !page.entries.is_empty());
        if has_something || page.is_err() || Instant::now() >= deadline {
            return answer(page);
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

async fn recommend(State(engine): Shared, Query(query): Query<RecommendQuery>) -> Response {
    answer(blocking(move || engine.recommend(&query)).await)
}

async fn observe(
    State(engine): Shared,
    Extension(peer): Caller,
    Json(request): Json<ObserveRequest>,
) -> Response {
    info!("{peer} has it watched what sources send: {request:?}");
    let observe = move || {
        engine.set_observing(request);
        Ok(())
    };
    answer(blocking(observe).await)
}

async fn top(State(engine): Shared, Query(query): Query<TopQuery>) -> Response {
    answer(blocking(move || engine.top(&query)).await)
}

async fn capture(
    State(engine): Shared,
    Extension(peer): Caller,
    Query(query): Query<CaptureQuery>,
) -> Response {
    match blocking(move || Ok(engine.capture(&query))).await {
        Ok(Ok(capturing)) => {
            info!("{peer} captures dropped packets");
            Body::new(Lines(capturing)).into_response()
        }
        Ok(Err(error @ (CaptureError::NoReason { .. } | CaptureError::NoService { .. }))) => {
            not_found(&error.to_string())
        }
        Ok(Err(CaptureError::Failed(failure))) | Err(failure) => refuse(&failure),
    }
}

async fn log_drops(
    State(engine): Shared,
    Extension(peer): Caller,
    Json(request): Json<LogDropsRequest>,
) -> Response {
    let lasts = request.lasts.map(Duration::from_millis);
    answer(
        blocking(move || engine.log_drops(lasts, &peer.to_string()))
            .await
            .map(|until| LogDropsAnswer { until }),
    )
}

async fn reload(State(engine): Shared, Extension(peer): Caller) -> Response {
    info!("{peer} asks for a reload");
    applied(blocking(move || Ok(engine.reload(&peer.to_string()))).await)
}

async fn apply(
    State(engine): Shared,
    Extension(peer): Caller,
    Json(request): Json<ApplyRequest>,
) -> Response {
    info!("{peer} applies {}", request.file);
    let ApplyRequest { policy, file, confirm_within } = request;
    let time = confirm_within.map(Duration::from_millis);
    applied(blocking(move || Ok(engine.apply(policy, &PathBuf::from(file), time, &peer.to_string()))).await)
}

async fn confirm(State(engine): Shared, Extension(peer): Caller) -> Response {
    info!("{peer} confirms the policy");
    match blocking(move || engine.confirm(&peer.to_string())).await {
        Ok(Some(generation)) => Json(json!({ "generation": generation })).into_response(),
        Ok(None) => not_found(
            "no policy waits for a confirmation: none was applied with --confirm, or its time is over",
        ),
        Err(failure) => refuse(&failure),
    }
}

async fn detach(State(engine): Shared, Extension(peer): Caller) -> Response {
    info!("{peer} takes guard out of the kernel");
    answer(
        blocking(move || engine.detach(&peer.to_string()))
            .await
            .map(|interfaces| json!({ "interfaces": interfaces })),
    )
}

fn not_found(error: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

fn applied(result: Result<Result<crate::agent::Applied, ApplyError>>) -> Response {
    match result {
        Ok(Ok(applied)) => Json(applied).into_response(),
        Ok(Err(ApplyError::BadPolicy(report))) => {
            let body = json!({ "error": report.to_string() });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
        Ok(Err(ApplyError::Failed(failure))) | Err(failure) => refuse(&failure),
    }
}
