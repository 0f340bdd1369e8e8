//! Asking the agent for pages: one question at a time, and one answer for all who wait for it.

use std::io;

use axum::http::StatusCode;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::wire::{Answer, HEAD, Page};

/// A page for all who wait for it.
pub(super) type Shared = (StatusCode, Bytes);

/// A client that waits for a page.
struct Waiting {
    page: Page,
    answer: oneshot::Sender<Shared>,
}

/// Asks for pages over one socket.
#[derive(Clone)]
pub(super) struct Pages(mpsc::UnboundedSender<Waiting>);

impl Pages {
    /// Also returns what does the asking; it ends when the agent is gone.
    pub(super) fn over(
        agent: impl AsyncRead + AsyncWrite + Unpin,
    ) -> (Self, impl Future<Output = io::Result<()>>) {
        // No more wait than there are connections.
        let (sender, waiting) = mpsc::unbounded_channel();
        (Self(sender), ask(agent, waiting))
    }

    /// A page that was begun after this call; none when the agent is gone.
    pub(super) async fn get(&self, page: Page) -> Option<Shared> {
        let (answer, wait) = oneshot::channel();
        self.0.send(Waiting { page, answer }).ok()?;
        wait.await.ok()
    }
}

async fn ask(
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
    mut waiting: mpsc::UnboundedReceiver<Waiting>,
) -> io::Result<()> {
    while let Some(first) = waiting.recv().await {
        let mut all = vec![first];
        while let Ok(next) = waiting.try_recv() {
            all.push(next);
        }
        // Those whose clients have gone need nothing.
        all.retain(|waiting| !waiting.answer.is_closed());
        while let Some(page) = all.first().map(|waiting| waiting.page) {
            let answer = exchange(&mut agent, page).await?;
            for waiting in all.extract_if(.., |waiting| waiting.page == page) {
                // Its client may have gone meanwhile.
                let _ = waiting.answer.send(answer.clone());
            }
        }
    }
    Ok(())
}

async fn exchange(agent: &mut (impl AsyncRead + AsyncWrite + Unpin), page: Page) -> io::Result<Shared> {
    agent.write_all(&[page.code()]).await?;
    let mut head = [0; HEAD];
    agent.read_exact(&mut head).await?;
    let (status, length) = Answer::announced(head)?;
    let mut text = vec![0; length];
    agent.read_exact(&mut text).await?;
    Ok((status, text.into()))
}
