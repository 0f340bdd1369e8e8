//! Serving HTTP/1.1 to clients that may be slow, silent or hostile: bounded in number, in time and in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at a time; others wait until one ends.
    pub(super) connections: usize,
    /// How long a request may take until its answer begins, its body included.
    pub(super) request: Duration,
    /// How long a connection may last, whatever happens on it.
    pub(super) connection: Duration,
}

/// From the first byte of a request, or the end of the last answer, to the end of its head.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of a head.
const BUFFER: usize = 16 << 10;
/// How long answers that are under way may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves `router` until `stopped`. `prepare` gives each connection a router of its own, which may know who is at the other end.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    bounds: Bounds,
    router: Router,
    prepare: impl Fn(Router, &L::Io) -> Router,
    mut stopped: watch::Receiver<bool>,
) {
    let router = router.layer(from_fn(move |request, next| in_time(bounds.request, request, next)));
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        // Those that ended are let go of.
        while connections.try_join_next().is_some() {}
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            accepted = accept => accepted,
            // An error means that the agent is gone: an end too.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let service = TowerToHyperService::new(prepare(router.clone(), &stream));
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
            // A client that breaks off or breaks the rules is no news.
            let _ = timeout(bounds.connection, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
    let _ = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

async fn in_time(patience: Duration, request: Request, next: Next) -> Response {
    match timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    }
}
