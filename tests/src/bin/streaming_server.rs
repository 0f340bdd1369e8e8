//! A test server with the API of OpenAI: it streams words at a given pace and knows no model.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use http_body_util::channel::{Channel, Sender};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

#[derive(Parser, Clone, Debug)]
#[command(name = "guard-streaming-server", about = "A test server with the API of OpenAI; it knows no model")]
struct Arguments {
    /// Port to listen on, for IPv4 and IPv6
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Tokens of an answer, where the request sets no max_tokens
    #[arg(long, default_value_t = 20)]
    tokens: u64,
    /// Milliseconds from one token to the next, where the request sets no delay
    #[arg(long, default_value_t = 10)]
    delay: u64,
}

/// Bytes of a request: people send pictures.
const MAX_REQUEST: usize = 64 << 20;

#[derive(Clone)]
struct Server {
    arguments: Arguments,
    active: Arc<AtomicU64>,
}

/// A generation that runs; counted for as long as it lives.
struct Generation(Arc<AtomicU64>);

impl Generation {
    fn begin(active: &Arc<AtomicU64>) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(active))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), arguments.port);
    let listener = listen(address).with_context(|| format!("cannot listen on {address}"))?;
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/active", get(active))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(complete))
        .route("/v1/chat/completions", post(complete))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Server { arguments, active: Arc::default() });
    axum::serve(listener, router).await.context("the server ended")
}

/// Servers of inference have room for thousands that wait to be accepted: uvicorn for 2,048.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    const WAITING: u32 = 2048;
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// How many generations run at this moment.
async fn active(State(server): State<Server>) -> Json<Value> {
    Json(json!({ "active": server.active.load(Ordering::Relaxed) }))
}

async fn models() -> Json<Value> {
    Json(
        json!({ "object": "list", "data": [{ "id": "test", "object": "model", "owned_by": "guard-tests" }] }),
    )
}

async fn complete(State(server): State<Server>, Json(request): Json<Value>) -> Response {
    let generation = Generation::begin(&server.active);
    let tokens = request["max_tokens"].as_u64().unwrap_or(server.arguments.tokens);
    let delay = Duration::from_millis(request["delay"].as_u64().unwrap_or(server.arguments.delay));
    if request["stream"] != true {
        sleep(delay * u32::try_from(tokens).unwrap_or(u32::MAX)).await;
        drop(generation);
        let text = "word ".repeat(usize::try_from(tokens).unwrap_or(0).min(100_000));
        // Here a byte is a token.
        let usage = json!({ "prompt_tokens": request["prompt"].as_str().map_or(0, str::len) });
        let choices = json!([{ "index": 0, "text": text }]);
        return Json(json!({ "object": "text_completion", "choices": choices, "usage": usage }))
            .into_response();
    }
    let (sender, body) = Channel::<_, Infallible>::new(1);
    tokio::spawn(stream(sender, tokens, delay, generation));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response()
}

/// Sends the events of a stream. It ends early when the client is gone.
async fn stream(
    mut sender: Sender<axum::body::Bytes>,
    tokens: u64,
    delay: Duration,
    _generation: Generation,
) {
    for number in 0..tokens {
        let event = json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": { "content": format!("word{number} ") } }] });
        if sender.send_data(format!("data: {event}\n\n").into()).await.is_err() {
            return;
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
    // The client may go just now.
    let _ = sender.send_data("data: [DONE]\n\n".into()).await;
}
