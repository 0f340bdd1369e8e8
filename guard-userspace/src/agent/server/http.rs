//! Serving HTTP/1.1 to clients that may be slow, silent or hostile: bounded in number, in time and in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deadline::Deadline;
use super::places::{Owner, Place, Places, Room};

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at a time.
    pub(super) room: Room,
    /// How long a request may take until its answer begins, its body included.
    pub(super) request: Duration,
    /// How long a client may go without reading of its answer.
    pub(super) write: Duration,
    /// How long a connection may last, whatever happens on it.
    pub(super) connection: Duration,
}

/// From the first byte of a request, or the end of the last answer, to the end of its head.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of a head.
const BUFFER: usize = 16 << 10;
/// How long answers that are under way may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves `router` until `stopped`. `know` says on whose account a connection is, and what its requests carry beside their place.
pub(super) async fn serve<L: Listener, K: Clone + Send + Sync + 'static>(
    mut listener: L,
    bounds: Bounds,
    router: Router,
    know: impl Fn(&L::Io) -> (Owner, K),
    mut stopped: watch::Receiver<bool>,
) {
    let router = router.layer(from_fn(move |request, next| in_time(bounds.request, request, next)));
    let places = Places::new(bounds.room);
    let mut connections = JoinSet::new();
    loop {
        // Those that ended are let go of.
        while connections.try_join_next().is_some() {}
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the agent is gone: an end too.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let (owner, known) = know(&stream);
        // The server works for all of them: who comes now is cut off.
        let Some(held) = places.take(owner) else { continue };
        let (place, router) = (Arc::clone(held.place()), router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert::<Arc<Place>>(Arc::clone(&place));
            request.extensions_mut().insert(known.clone());
            TowerToHyperService::new(router.clone()).call(request)
        });
        let stream = TokioIo::new(Deadline::new(stream, bounds.write));
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
            // A client that breaks off or breaks the rules is no news.
            tokio::select! {
                _ = timeout(bounds.connection, http.serve_connection(stream, service)) => {}
                () = held.gives_way() => {}
            }
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
