//! What reads the bytes of clients, over memory: for proofs and fuzzing, which have neither an agent nor a kernel.

use std::time::Duration;

use axum::extract::Query;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

use super::ask::Ask;
use super::control::BOUNDS;
use super::desk::{Desk, Known, Shares};
use super::memory::{self, Stranger};
use super::peer::Peer;
use super::{metrics, places::Owner};
use crate::agent::ExplainQuery;
use crate::agent::top::TopQuery;
use crate::capture::CaptureQuery;
use crate::control::{ApplyRequest, BlockRequest, LogDropsRequest, UnblockRequest, path};
use crate::events::EntryQuery;
use crate::recommend::{ObserveRequest, RecommendQuery};

/// What the server of metrics answers to these bytes. Each page is `a page`. The client closes once no answer has come for `patience`.
///
/// # Errors
/// When the system has no means to wait.
pub fn metrics(bytes: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    Ok(Builder::new_current_thread().enable_all().build()?.block_on(metrics::answers(bytes, patience)))
}

/// What the control socket answers to these bytes. Instead of doing what is asked for, it says what it has read.
///
/// # Errors
/// When the system has no means to wait.
pub fn control(bytes: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    let peer = Peer { uid: 1000, gid: 1000, pid: Some(1), user: None };
    let known = Known { peer: Some(peer), shares: Shares::new() };
    let client = Stranger { owner: Owner::User(1000), known };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(memory::answers(bytes, BOUNDS, router(), client, patience)))
}

/// As `control::serve` has it, by the same readers.
fn router() -> Router {
    Router::new()
        .route(path::STATUS, get(nothing))
        .route(path::EXPLAIN, get(query::<ExplainQuery>))
        .route(path::BLOCK, post(body::<BlockRequest>))
        .route(path::UNBLOCK, post(body::<UnblockRequest>))
        .route(path::BLOCKS, get(nothing))
        .route(path::CONNECTIONS, get(nothing))
        .route(path::EVENTS, get(query::<EntryQuery>))
        .route(path::TOP, get(query::<TopQuery>))
        .route(path::RECOMMEND, get(query::<RecommendQuery>))
        .route(path::OBSERVE, post(body::<ObserveRequest>))
        .route(path::CAPTURE, get(query::<CaptureQuery>))
        .route(path::LOG_DROPS, post(body::<LogDropsRequest>))
        .route(path::RELOAD, post(nothing))
        .route(path::APPLY, post(body::<ApplyRequest>))
        .route(path::CONFIRM, post(nothing))
        .route(path::DETACH, post(nothing))
}

async fn nothing(desk: Desk) -> Response {
    desk.answer(|| Ok(())).await
}

async fn query<Q: DeserializeOwned + Serialize>(Query(query): Query<Q>, _: Desk) -> Json<Q> {
    Json(query)
}

async fn body<T>(Ask { desk, wanted }: Ask<T>) -> Response
where
    T: DeserializeOwned + Serialize + Send + 'static,
{
    desk.answer(move || Ok(wanted)).await
}
