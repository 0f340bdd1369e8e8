//! An answer that goes on and on: a line for each thing that comes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};

use super::places::Working;
use crate::agent::engine::Capturing;

/// So many lines go out in one piece, if they are there.
const AT_ONCE: usize = 256;

/// The lines of a capture. It ends with the connection.
pub(super) struct Lines {
    pub(super) capturing: Capturing,
    /// A capture does not give way to other connections.
    pub(super) _working: Working,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let lines = &mut self.get_mut().capturing.lines;
        let mut text = Vec::new();
        for _ in 0..AT_ONCE {
            match lines.poll_recv(context) {
                Poll::Ready(Some(line)) => {
                    // Lines are numbers and text, which JSON has always room for.
                    let _ = serde_json::to_writer(&mut text, &line);
                    text.push(b'\n');
                }
                Poll::Ready(None) if text.is_empty() => return Poll::Ready(None),
                Poll::Pending if text.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
