//! The control socket: what the commands ask of the agent.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::unistd::{Gid, Group, chown};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::ask::Ask;
use super::desk::{Desk, Known, Shares, not_taken};
use super::http::{self, Bounds};
use super::lines::Lines;
use super::peer::Peer;
use super::places::{Owner, Room};
use super::refuse;
use crate::agent::engine::ApplyError;
use crate::agent::top::TopQuery;
use crate::agent::unit;
use crate::agent::{CaptureError, Engine, ExplainQuery};
use crate::blocks::RegisterError;
use crate::capture::CaptureQuery;
use crate::control::{
    ApplyRequest, BlockRequest, DetachAnswer, LogDropsAnswer, LogDropsRequest, UnblockRequest, path,
};
use crate::events::EntryQuery;
use crate::plain::plain;
use crate::recommend::{ObserveRequest, RecommendQuery};

type Shared = State<Arc<Engine>>;

/// Members of this group may use the control socket.
const GROUP: &str = "guard";

pub(super) const BOUNDS: Bounds = Bounds {
    room: Room { root: 64, user: 16, others: 64 },
    request: Duration::from_secs(60),
    write: Duration::from_secs(30),
    connection: Duration::from_secs(24 * 3600),
};

/// How long who waits for events may wait for an answer, and how often it is looked for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Nobody waits longer for a confirmation.
const LONGEST_CONFIRMATION: Duration = Duration::from_secs(24 * 3600);

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
        .with_state(engine);
    let shares = Shares::new();
    let know = |stream: &UnixStream| {
        let peer = Peer::of(stream);
        let owner = peer.as_ref().map_or(Owner::Unknown, Peer::owner);
        (owner, Known { peer, shares: shares.clone() })
    };
    http::serve(listener, BOUNDS, router, know, stopped).await;
}

/// The control socket, for root and the group `guard`. The caller holds the lock of this socket, so one that lies there
/// is left over from an agent that died.
pub(in crate::agent) fn bind(socket: &Path) -> Result<StdUnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", socket.display()));
        }
        Ok(()) | Err(_) => {}
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

async fn status(State(engine): Shared, desk: Desk) -> Response {
    desk.answer(move || engine.status()).await
}

async fn explain(State(engine): Shared, Query(query): Query<ExplainQuery>, desk: Desk) -> Response {
    desk.answer(move || engine.explain(&query)).await
}

async fn block(State(engine): Shared, Ask { desk, wanted }: Ask<BlockRequest>) -> Response {
    let peer = desk.peer.clone();
    desk.answer(move || engine.block(&wanted, &peer)).await
}

async fn unblock(State(engine): Shared, Ask { mut desk, wanted }: Ask<UnblockRequest>) -> Response {
    let peer = desk.peer.clone();
    match desk.work(move || Ok(engine.unblock(&wanted.nets, &peer))).await {
        Ok(Ok(unblocked)) => Json(unblocked).into_response(),
        Ok(Err(error @ RegisterError::NotBlocked { .. })) => not_found(&error.to_string()),
        Ok(Err(error)) => refuse(&error.into()),
        Err(failure) => refuse(&failure),
    }
}

async fn blocks(State(engine): Shared, desk: Desk) -> Response {
    desk.with_memory().await.answer(move || engine.blocks()).await
}

async fn connections(State(engine): Shared, desk: Desk) -> Response {
    desk.with_memory().await.answer(move || engine.connections()).await
}

/// Waits for something new, if it is asked to.
async fn events(State(engine): Shared, Query(query): Query<EntryQuery>, mut desk: Desk) -> Response {
    let wait = Duration::from_millis(query.wait.unwrap_or(0)).min(LONGEST_WAIT);
    let deadline = Instant::now() + wait;
    loop {
        let (asked, query) = (Arc::clone(&engine), query.clone());
        let page = desk.work(move || asked.events(&query)).await;
        let has_something = page.as_ref().is_ok_and(|page| !page.entries.is_empty());
        if has_something || page.is_err() || Instant::now() >= deadline {
            return desk.with_memory().await.answer(move || page).await;
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

async fn recommend(State(engine): Shared, Query(query): Query<RecommendQuery>, desk: Desk) -> Response {
    desk.answer(move || engine.recommend(&query)).await
}

async fn observe(State(engine): Shared, Ask { desk, wanted }: Ask<ObserveRequest>) -> Response {
    info!("{} has it watched what sources send: {wanted:?}", desk.peer);
    let observe = move || {
        engine.set_observing(wanted);
        Ok(())
    };
    desk.answer(observe).await
}

async fn top(State(engine): Shared, Query(query): Query<TopQuery>, desk: Desk) -> Response {
    desk.answer(move || engine.top(&query)).await
}

async fn capture(State(engine): Shared, Query(query): Query<CaptureQuery>, mut desk: Desk) -> Response {
    match desk.work(move || Ok(engine.capture(&query))).await {
        Ok(Ok(capturing)) => {
            info!("{} captures dropped packets", desk.peer);
            Body::new(Lines { capturing, _working: desk.working }).into_response()
        }
        Ok(Err(error @ (CaptureError::NoReason { .. } | CaptureError::NoService { .. }))) => {
            not_found(&error.to_string())
        }
        Ok(Err(CaptureError::Failed(failure))) | Err(failure) => refuse(&failure),
    }
}

async fn log_drops(State(engine): Shared, Ask { desk, wanted }: Ask<LogDropsRequest>) -> Response {
    let lasts = wanted.lasts.map(Duration::from_millis);
    let peer = desk.peer.to_string();
    desk.answer(move || engine.log_drops(lasts, &peer).map(|until| LogDropsAnswer { until })).await
}

async fn reload(State(engine): Shared, mut desk: Desk) -> Response {
    let peer = desk.peer.to_string();
    info!("{peer} asks for a reload");
    applied(desk.work(move || Ok(engine.reload(&peer))).await)
}

async fn apply(State(engine): Shared, Ask { mut desk, wanted }: Ask<ApplyRequest>) -> Response {
    let peer = desk.peer.to_string();
    let ApplyRequest { policy, file, confirm_within } = wanted;
    // The name goes into messages only.
    let file = plain(&file).into_owned();
    info!("{peer} applies {file}");
    let time = confirm_within.map(|time| Duration::from_millis(time).min(LONGEST_CONFIRMATION));
    applied(desk.work(move || Ok(engine.apply(policy, &PathBuf::from(file), time, &peer))).await)
}

async fn confirm(State(engine): Shared, mut desk: Desk) -> Response {
    let peer = desk.peer.to_string();
    info!("{peer} confirms the policy");
    match desk.work(move || engine.confirm(&peer)).await {
        Ok(Some(generation)) => Json(json!({ "generation": generation })).into_response(),
        Ok(None) => not_found(
            "no policy waits for a confirmation: none was applied with --confirm, or its time is over",
        ),
        Err(failure) => refuse(&failure),
    }
}

async fn detach(State(engine): Shared, desk: Desk) -> Response {
    let peer = desk.peer.to_string();
    info!("{peer} takes guard out of the kernel");
    desk.answer(move || engine.detach(&peer).map(|interfaces| DetachAnswer { interfaces, unit: unit::own() }))
        .await
}

fn not_found(error: &str) -> Response {
    not_taken(StatusCode::NOT_FOUND, error)
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
