//! The body of a request: read within bounds of time and memory.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::desk::{Desk, Memory, nobody, not_taken};
use super::refuse;

/// A policy of 100,000 prefixes takes 2 MB, a list of a million addresses to block 16 MB.
const MAX_BODY: usize = 64 << 20;
/// What any request may have in memory; longer ones wait for each other.
const SHORT: usize = 64 << 10;
/// How long a client may take, with so many bytes a second beside it. It is on this host.
const GRACE: Duration = Duration::from_secs(5);
const BYTES_PER_SECOND: f64 = (8 << 20) as f64;

/// What a request asks for, and where it is worked on.
pub(super) struct Ask<T> {
    pub(super) desk: Desk,
    pub(super) wanted: T,
}

impl<S: Sync, T: DeserializeOwned + Send + 'static> FromRequest<S> for Ask<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let (text, memory) = read(body, &parts).await?;
        let mut desk = Desk::of(&parts).ok_or_else(nobody)?.holding(memory);
        let parse = move || Ok(serde_json::from_slice(&text));
        match desk.work(parse).await.map_err(|failure| refuse(&failure))? {
            Ok(wanted) => Ok(Self { desk, wanted }),
            Err(error) => {
                let why =
                    format!("the request is not understood: {error}; use a guard of the agent's version");
                Err(not_taken(StatusCode::BAD_REQUEST, &why))
            }
        }
    }
}

/// Reads a body. While it is read, its connection may have to give way.
async fn read(mut body: Body, parts: &Parts) -> Result<(Vec<u8>, Option<Memory>), Response> {
    let announced = body.size_hint().lower();
    let mut text = Vec::new();
    let mut memory = None;
    let mut taken = Duration::ZERO;
    loop {
        let size = usize::try_from(announced).unwrap_or(usize::MAX).max(text.len());
        if size > MAX_BODY {
            return Err(not_taken(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request is longer than 64 MiB: ask for less at once",
            ));
        }
        if size > SHORT && memory.is_none() {
            memory = Some(Desk::wait_for_memory(parts).await.ok_or_else(nobody)?);
        }
        let allowed = GRACE + Duration::from_secs_f64(text.len() as f64 / BYTES_PER_SECOND);
        let begun = Instant::now();
        let Ok(frame) = timeout(allowed.saturating_sub(taken), body.frame()).await else {
            return Err(not_taken(StatusCode::REQUEST_TIMEOUT, "the request came too slowly: send it again"));
        };
        taken += begun.elapsed();
        match frame {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) => {
                return Err(not_taken(StatusCode::BAD_REQUEST, "the request breaks off: send it again"));
            }
            None => return Ok((text, memory)),
        }
    }
}
