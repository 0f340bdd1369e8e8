//! An answer that is there as a whole, and what it holds until it has gone out.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// So much goes out in one piece.
const PIECE: usize = 64 << 10;

/// A text, and the right to the memory that it takes.
pub(super) struct Sent {
    text: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Sent {
    pub(super) fn new(text: Vec<u8>, memory: Option<OwnedSemaphorePermit>) -> Self {
        Self { text: text.into(), _memory: memory }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = &mut self.get_mut().text;
        if text.is_empty() {
            return Poll::Ready(None);
        }
        let piece = text.split_to(text.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}
