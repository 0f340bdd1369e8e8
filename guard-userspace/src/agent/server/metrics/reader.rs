//! The reader of metrics over memory, with an agent that has a page for every question.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

use super::pages::Pages;
use super::web::{Sources, bounds, router};
use super::wire::{Answer, Page};
use crate::agent::server::memory::{self, Stranger};

/// What the server of metrics answers to these bytes.
pub(in crate::agent) async fn answers(bytes: &[u8], patience: Duration) -> Vec<u8> {
    let ((scrapes, agent), (health, other)) = (duplex(64), duplex(64));
    let ((scrapes, ask_for_scrapes), (health, ask_for_health)) = (Pages::over(scrapes), Pages::over(health));
    let router = router(Sources { scrapes, health });
    tokio::select! {
        answers = memory::answers(bytes, bounds(), router, Stranger::default(), patience) => answers,
        _ = ask_for_scrapes => Vec::new(),
        _ = ask_for_health => Vec::new(),
        () = give_pages(agent) => Vec::new(),
        () = give_pages(other) => Vec::new(),
    }
}

async fn give_pages(mut server: impl AsyncRead + AsyncWrite + Unpin) {
    while let Ok(code) = server.read_u8().await {
        let status = if Page::of_code(code).is_some() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let mut text = Vec::new();
        // Memory takes all that is written to it.
        let _ = Answer { status, text: b"a page\n".to_vec() }.write(&mut text);
        if server.write_all(&text).await.is_err() {
            return;
        }
    }
}
