//! `/metrics`, `/healthz` and `/readyz`, over TCP.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::pages::{Pages, Shared};
use super::wire::{Ends, Page};
use crate::agent::metrics::Format;
use crate::agent::server::http::{self, Bounds};
use crate::agent::server::places::{Owner, Room};
use crate::agent::{descriptors, system_calls};
use crate::sockets::Users;

/// Scrapes are few and short; the rest may be anybody. A place takes some kilobytes. Where a user of this host has all its places, or all users
/// have all of theirs, the oldest connection gives way: a flood of one user cuts off no other.
const PLACES: usize = 4096;
const OF_A_USER: usize = 512;
const OF_ROOT: usize = 64;
/// Beside the connections, the server has few files open.
const OTHER_FILES: usize = 32;

pub(super) fn bounds() -> Bounds {
    let files = descriptors::most().map_or(PLACES, |most| most.saturating_sub(OTHER_FILES + OF_ROOT));
    let others = PLACES.min(files).max(1);
    Bounds {
        room: Room { root: OF_ROOT, user: OF_A_USER.min(others), others },
        request: Duration::from_secs(30),
        write: Duration::from_secs(5),
        connection: Duration::from_secs(300),
    }
}

/// Serves until the agent is gone.
pub(super) fn serve(listener: StdTcpListener, ends: Ends) -> Result<()> {
    let Ends { scrapes, health, mut news } = ends;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start to serve metrics")?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).context("cannot serve metrics")?;
        let (scrapes, ask_for_scrapes) = Pages::over(stream(scrapes).context("cannot ask for metrics")?);
        let (health, ask_for_health) = Pages::over(stream(health).context("cannot ask for health")?);
        // Where the kernel does not tell who connects, all are one user.
        let users = Users::begin().ok();
        // All that clients send is read after this.
        system_calls::leave_to_a_server().context("cannot give up system calls")?;
        writeln!(news).context("the agent is gone")?;
        tokio::select! {
            () = answer(listener, Sources { scrapes, health }, users) => Ok(()),
            gone = ask_for_scrapes => gone.context("the agent is gone"),
            gone = ask_for_health => gone.context("the agent is gone"),
        }
    })
}

fn stream(agent: StdUnixStream) -> io::Result<UnixStream> {
    agent.set_nonblocking(true)?;
    UnixStream::from_std(agent)
}

/// Where pages come from.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) scrapes: Pages,
    pub(super) health: Pages,
}

/// What there is to ask for.
pub(super) fn router(sources: Sources) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .fallback(nothing_there)
        .with_state(sources)
}

async fn answer(listener: TcpListener, sources: Sources, users: Option<Users>) {
    // This process ends with the agent, not before.
    let (_goes_on, stopped) = watch::channel(false);
    let users = RefCell::new(users);
    let know = |stream: &TcpStream| (owner(stream, users.borrow_mut().as_mut()), ());
    http::serve(listener, bounds(), router(sources), know, stopped).await;
}

/// On whose account a connection is. Of a client on another host the kernel cannot tell.
fn owner(stream: &TcpStream, users: Option<&mut Users>) -> Owner {
    let ends = stream.peer_addr().ok().zip(stream.local_addr().ok());
    let user = users.zip(ends).and_then(|(users, (client, server))| users.of(client, server));
    user.map_or(Owner::Unknown, |user| if user == 0 { Owner::Root } else { Owner::User(user) })
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
