//! `/metrics`, `/healthz` and `/readyz`, over TCP.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::pages::{Pages, Shared};
use super::wire::{Ends, Page};
use crate::agent::metrics::Format;
use crate::agent::server::http::{self, Bounds};
use crate::agent::server::places::{Owner, Room};
use crate::agent::system_calls;

/// Scrapes are few and short; the rest may be anybody. A place takes some kilobytes.
const PLACES: usize = 512;

const BOUNDS: Bounds = Bounds {
    room: Room { root: 0, user: PLACES, others: PLACES },
    request: Duration::from_secs(30),
    write: Duration::from_secs(5),
    connection: Duration::from_secs(300),
};

/// How often the port is tried that another process has: often at first, since the agent before may be about to let go of it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// From this pause on the agent is told.
const TOLD_AFTER: Duration = Duration::from_millis(160);

/// Serves until the agent is gone.
pub(super) fn serve(listen: SocketAddr, ends: Ends) -> Result<()> {
    let Ends { scrapes, health, mut news } = ends;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start to serve metrics")?;
    let listener = bind(listen, &mut news).context("the agent is gone")?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).context("cannot serve metrics")?;
        let (scrapes, ask_for_scrapes) = Pages::over(scrapes).context("cannot ask for metrics")?;
        let (health, ask_for_health) = Pages::over(health).context("cannot ask for health")?;
        // All that clients send is read after this.
        system_calls::leave_to_a_server().context("cannot give up system calls")?;
        writeln!(news).context("the agent is gone")?;
        tokio::select! {
            () = answer(listener, Sources { scrapes, health }) => Ok(()),
            gone = ask_for_scrapes => gone.context("the agent is gone"),
            gone = ask_for_health => gone.context("the agent is gone"),
        }
    })
}

/// Listens as soon as the port is free; says why it is not meanwhile.
fn bind(listen: SocketAddr, news: &mut impl Write) -> io::Result<StdTcpListener> {
    let mut told = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match listener(listen) {
            Ok(listener) => return Ok(listener),
            Err(error) => error.to_string(),
        };
        if pause >= TOLD_AFTER && told.as_ref() != Some(&error) {
            writeln!(news, "{error}")?;
            told = Some(error);
        }
        sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

fn listener(listen: SocketAddr) -> io::Result<StdTcpListener> {
    let listener = StdTcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[derive(Clone)]
struct Sources {
    scrapes: Pages,
    health: Pages,
}

async fn answer(listener: TcpListener, sources: Sources) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .fallback(nothing_there)
        .with_state(sources);
    // This process ends with the agent, not before.
    let (_goes_on, stopped) = watch::channel(false);
    http::serve(listener, BOUNDS, router, |_: &TcpStream| (Owner::Unknown, ()), stopped).await;
}

async fn scrape(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let format = Format::of(&headers);
    match sources.scrapes.get(Page::Metrics(format)).await {
        Some((StatusCode::OK, text)) => {
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
        other => plain(other),
    }
}

/// Alive: the agent answers and is not stuck. What is wrong beside that is not mended by a restart.
async fn healthy(State(sources): State<Sources>) -> Response {
    plain(sources.health.get(Page::Healthy).await)
}

/// Ready: every interface of the policy is guarded, and the maps, pins and links are as they should be.
async fn ready(State(sources): State<Sources>) -> Response {
    plain(sources.health.get(Page::Ready).await)
}

async fn nothing_there() -> Response {
    (StatusCode::NOT_FOUND, "guard has /metrics, /healthz and /readyz\n").into_response()
}

fn plain(page: Option<Shared>) -> Response {
    const TEXT: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match page {
        Some((status, text)) => (status, TEXT, text).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer\n").into_response(),
    }
}
