use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

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
    #[error("the agent at {socket} does not answer as expected: {reason}")]
    Protocol { socket: PathBuf, reason: String },
    /// The agent said why it did not do it.
    #[error("{0}")]
    Refused(String),
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
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path).await
    }

    /// # Errors
    /// When no agent runs, the caller may not talk to it, or it refuses.
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::POST, path).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let answer = timeout(PATIENCE, self.exchange(method, path)).await;
        let (status, body) = answer.map_err(|_| self.protocol("no answer in 30 s"))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.protocol(error));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(ClientError::Refused(refusal.error)),
            Err(_) => Err(self.protocol(status)),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are open-ended")]
    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoAgent(self.socket.clone()),
            ErrorKind::PermissionDenied => ClientError::Permission(self.socket.clone()),
            _ => self.protocol(error),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.protocol(error))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "guard")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.protocol(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.protocol(error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.protocol(error))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    fn protocol(&self, reason: impl ToString) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), reason: reason.to_string() }
    }
}
