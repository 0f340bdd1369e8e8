use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of the agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent does not run.
    #[error("no guard answers at {0}: is the agent running?")]
    NoAgent(PathBuf),
    #[error("{0} may be used only by root and the group guard: use sudo, or join the group")]
    Permission(PathBuf),
    #[error("the agent at {0} has ended before it answered: what was asked for may have been done")]
    Ended(PathBuf),
    #[error("the agent at {socket} does not answer as expected: {reason}")]
    Protocol { socket: PathBuf, reason: String },
    /// What the command is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// The policy is not right: a report, with its places.
    #[error("{0}")]
    BadPolicy(String),
    /// The agent said why it did not do it.
    #[error("{0}")]
    Refused(String),
}

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    AsAsked,
    WithAgent,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// # Errors
    /// When no agent runs, the caller may not talk to it, or it refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new())
    }

    /// # Errors
    /// When no agent runs, the caller may not talk to it, or it refuses.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(error))?;
        self.call(Method::POST, path, body.into())
    }

    /// A command asks once and then ends, so it waits for its answer here.
    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.protocol(error))?;
        let answer = runtime.block_on(async { timeout(PATIENCE, self.exchange(method, path, body)).await });
        let (status, body) = answer.map_err(|_| self.protocol(format!("no answer in {PATIENCE:?}")))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.protocol(error));
        }
        Err(self.refused(status, &body))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let Ok(Refusal { error }) = serde_json::from_slice(body) else { return self.protocol(status) };
        match status {
            StatusCode::NOT_FOUND => ClientError::NotFound(error),
            StatusCode::UNPROCESSABLE_ENTITY => ClientError::BadPolicy(error),
            _ => ClientError::Refused(error),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.protocol(error))?;
        Ok((status, body.to_bytes()))
    }

    /// Asks for what goes on and on, one JSON value a line, and hands each to `each` until that breaks, `ended` is over, or the agent ends.
    ///
    /// # Errors
    /// As [`get`](Self::get), and when a line is not understood.
    pub fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        ended: impl Future<Output = ()>,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<Ended, ClientError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.protocol(error))?;
        runtime.block_on(async {
            let begun = timeout(PATIENCE, self.send(Method::GET, path, Bytes::new())).await;
            let response = match begun.map_err(|_| self.protocol(format!("no answer in {PATIENCE:?}")))? {
                Err(ClientError::Ended(_)) => return Ok(Ended::WithAgent),
                response => response?,
            };
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let refusal = body.collect().await.map_err(|error| self.protocol(error))?;
                return Err(self.refused(status, &refusal.to_bytes()));
            }
            let mut ended = pin!(ended);
            let mut text = Vec::new();
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame,
                    () = &mut ended => return Ok(Ended::AsAsked),
                };
                // What ends in the middle ends with the agent.
                let Some(Ok(frame)) = frame else { return Ok(Ended::WithAgent) };
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                for line in text.drain(..whole).as_slice().split(|byte| *byte == b'\n') {
                    if line.is_empty() {
                        continue;
                    }
                    let line = serde_json::from_slice(line).map_err(|error| self.protocol(error))?;
                    if each(line).is_break() {
                        return Ok(Ended::AsAsked);
                    }
                }
            }
        })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoAgent(self.socket.clone()),
            ErrorKind::PermissionDenied => ClientError::Permission(self.socket.clone()),
            _ => self.protocol(error),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.protocol(error))?;
        // It ends with the runtime of this call.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "guard")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.protocol(error))?;
        sender.send_request(request).await.map_err(|error| match error.is_incomplete_message() {
            true => ClientError::Ended(self.socket.clone()),
            false => self.protocol(error),
        })
    }

    fn protocol(&self, reason: impl ToString) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), reason: reason.to_string() }
    }
}
