//! The agent: loads the policy, keeps the program on its interfaces, and answers.
//!
//! ```text
//! signals ─┐
//! control ─┼─> Engine ─> datapath (maps, program, links)
//! metrics ─┘      └────> Status, which all of them show
//! ```

mod engine;
mod explain;
mod interfaces;
mod lock;
mod metrics;
mod serve;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::config::Policy;
use crate::datapath::host;
use crate::datapath::pins::Pins;

pub use engine::Engine;
pub use explain::{ExplainQuery, explain, protocol_name};
pub use interfaces::UnknownInterface;
pub use interfaces::resolve as resolve_interfaces;
pub use metrics::{build, encode};
pub use status::{CounterStatus, InterfaceStatus, PolicyStatus, ServiceStatus, Status};

/// What the agent is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    /// The file that the policy is from, if it is from one.
    pub file: Option<PathBuf>,
    pub pins: Pins,
    pub socket: PathBuf,
}

/// Runs until SIGINT or SIGTERM, or until `guard detach` asks for the end.
///
/// # Errors
/// When guard cannot start: then nothing of this start stays in the kernel. When it cannot end cleanly.
pub async fn run(settings: Settings) -> Result<()> {
    host::check()?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let _lock = lock::acquire(&settings.socket)?;
    let listen = settings.policy.metrics.listen;
    let http = TcpListener::bind(listen).await.with_context(|| {
        format!(
            "cannot listen on {listen} for metrics: choose another address with --metrics or [metrics] listen"
        )
    })?;
    let control = serve::bind_control(&settings.socket)?;

    let (stop, mut stopped) = watch::channel(false);
    let engine = Arc::new(Engine::start(&settings, stop)?);
    let servers = [
        tokio::spawn(serve::metrics(http, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(serve::control(control, Arc::clone(&engine), stopped.clone())),
    ];
    info!("guard is ready: metrics on http://{listen}/metrics, control socket {}", settings.socket.display());

    tokio::select! {
        _ = interrupt.recv() => info!("SIGINT"),
        _ = terminate.recv() => info!("SIGTERM"),
        _ = stopped.changed() => {}
    }
    engine.stop();
    for server in servers {
        server.await.context("a server of the agent failed")?;
    }
    let _ = std::fs::remove_file(&settings.socket);
    engine.finish()
}
