//! What a request over the control socket may take: threads, memory and time, with a share of each kept for root.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::places::{Owner, Place, Working};
use super::refuse;
use super::sent::Sent;
use crate::agent::Peer;

/// Requests of a share that are worked on at a time: each takes a thread, also after its client has gone.
const AT_WORK: usize = 8;

/// What root has, and what all others have.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    root: Share,
    others: Share,
}

#[derive(Clone, Debug)]
struct Share {
    work: Arc<Semaphore>,
    /// For long lists, one at a time: the text of a list, what is read of it and what is made of it are in memory at once.
    memory: Arc<Semaphore>,
}

/// The right to have a long list in memory.
pub(super) type Memory = OwnedSemaphorePermit;

/// What a connection carries to its requests.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) peer: Option<Peer>,
    pub(super) shares: Shares,
}

/// Where one request is worked on. As long as it lives, its connection does not give way to others.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) peer: Peer,
    pub(super) working: Working,
    share: Share,
    memory: Option<Memory>,
}

impl Shares {
    pub(super) fn new() -> Self {
        Self { root: Share::new(), others: Share::new() }
    }

    const fn of(&self, owner: Owner) -> &Share {
        match owner {
            Owner::Root => &self.root,
            Owner::User(_) | Owner::Unknown => &self.others,
        }
    }
}

impl Share {
    fn new() -> Self {
        Self { work: Arc::new(Semaphore::new(AT_WORK)), memory: Arc::new(Semaphore::new(1)) }
    }
}

impl Desk {
    /// None where the kernel does not say who asks. It always does at a unix socket.
    pub(super) fn of(parts: &Parts) -> Option<Self> {
        let (peer, share) = who_asks(parts)?;
        let place = parts.extensions.get::<Arc<Place>>()?;
        Some(Self { peer: peer.clone(), working: place.working(), share: share.clone(), memory: None })
    }

    /// Waits until no other long list of this share is in memory.
    pub(super) async fn wait_for_memory(parts: &Parts) -> Option<Memory> {
        let (_, share) = who_asks(parts)?;
        // The semaphore is never closed.
        Arc::clone(&share.memory).acquire_owned().await.ok()
    }

    pub(super) fn holding(mut self, memory: Option<Memory>) -> Self {
        self.memory = memory;
        self
    }

    /// For answers that may be long.
    pub(super) async fn with_memory(self) -> Self {
        let memory = Arc::clone(&self.share.memory).acquire_owned().await.ok();
        self.holding(memory)
    }

    /// Runs work that waits for the kernel on a thread of its own. It keeps its part of the share until it ends, also when the client has gone.
    pub(super) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.share.work).acquire_owned().await.ok();
        let memory = self.memory.take();
        let (result, memory) = tokio::task::spawn_blocking(move || {
            let _place = place;
            (work(), memory)
        })
        .await
        .context("the agent failed at this request; its log says more")?;
        self.memory = memory;
        result
    }

    /// Answers with what `work` makes.
    pub(super) async fn answer<T: Serialize>(
        mut self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Response {
        let write = move || serde_json::to_vec(&work()?).context("the answer cannot be written");
        match self.work(write).await {
            Ok(text) => {
                let body = Body::new(Sent::new(text, self.memory));
                ([(header::CONTENT_TYPE, "application/json")], body).into_response()
            }
            Err(failure) => refuse(&failure),
        }
    }
}

fn who_asks(parts: &Parts) -> Option<(&Peer, &Share)> {
    let Known { peer, shares } = parts.extensions.get::<Known>()?;
    let peer = peer.as_ref()?;
    Some((peer, shares.of(peer.owner())))
}

pub(super) fn nobody() -> Response {
    refuse(&anyhow!("the kernel does not say who asks: connect again"))
}

impl<S: Sync> FromRequestParts<S> for Desk {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        Self::of(parts).ok_or_else(nobody)
    }
}

pub(super) fn not_taken(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
