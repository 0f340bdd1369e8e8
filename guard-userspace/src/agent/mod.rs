//! The agent: loads the policy, keeps the program on its interfaces, and answers.
//!
//! ```text
//! signals ──────┐
//! policy file ──┤
//! control ──────┼─> Engine ─> datapath (maps, program, links)
//! metrics ──────┘      └────> Status, which all of them show
//! ```

mod engine;
mod explain;
mod heap;
mod housekeeping;
mod lock;
mod metrics;
mod observing;
mod privileges;
mod rings;
mod server;
mod status;
pub mod top;
mod watched_file;
mod watching;

use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::config::{LogLevel, Origin, Source};
use crate::datapath::pins::Pins;
use crate::datapath::{Rings, host};
use crate::network::{self, Changes};
use watched_file::WatchedFile;

pub use engine::{Applied, ApplyError, CaptureError, Capturing, Engine, Health, blocks_of, check_blocks};
pub use explain::{ExplainQuery, explain, protocol_name};
pub use metrics::{Format, gather};
pub use server::Peer;
pub use status::{CounterStatus, InterfaceStatus, MapStatus, PolicyStatus, ServiceStatus, Status};

/// What the agent is started with.
pub struct Settings {
    /// Where the policy is read from, now and at each reload.
    pub origin: Origin,
    /// Whether a change of the policy file is a reload.
    pub watch: bool,
    pub pins: Pins,
    pub socket: PathBuf,
    /// The ledger: blocks and audit log.
    pub state: PathBuf,
    /// Whether dropped packets are written to the log, too.
    pub log_drops: bool,
    /// Sets how much is logged.
    pub log_level: fn(LogLevel),
}

/// Runs until SIGINT or SIGTERM, or until `guard detach` asks for the end. `source` is the policy, as it was just read.
///
/// # Errors
/// When guard cannot start: then nothing of this start stays in the kernel. When it cannot end cleanly.
pub fn run(settings: Settings, source: &Source) -> Result<()> {
    host::check()?;
    heap::few_arenas();
    let was_there = settings.pins.exist();
    network::check(source, |_| was_there)?;
    let _lock = lock::acquire(&settings.socket)?;
    let listen = source.checked.policy.metrics.listen;
    let metrics = StdTcpListener::bind(listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| {
            format!(
                "cannot listen on {listen} for metrics: choose another address with --metrics or [metrics] listen"
            )
        })?;
    let control = server::control::bind(&settings.socket)?;
    // Threads inherit what is left, so this comes before the first.
    privileges::drop_others()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    let socket = settings.socket.clone();
    let result = runtime.block_on(serve(settings, source, metrics, control));
    let _ = std::fs::remove_file(socket);
    result
}

async fn serve(
    settings: Settings,
    source: &Source,
    metrics: StdTcpListener,
    control: StdUnixListener,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let metrics = TcpListener::from_std(metrics).context("cannot serve metrics")?;
    let control = UnixListener::from_std(control).context("cannot serve the control socket")?;
    let listen = metrics.local_addr().context("cannot serve metrics")?;
    let socket = settings.socket.display().to_string();
    let policy = settings.origin.file.as_ref().filter(|_| settings.watch).map(|file| WatchedFile::new(file));

    // Before the first look, so that nothing falls between the two.
    let changes = Changes::listen().context("cannot listen to changes of the network")?;

    let (stop, mut stopped) = watch::channel(false);
    let pins = settings.pins.clone();
    let engine = Arc::new(Engine::start(settings, source, stop)?);
    let rings = Rings::open(&pins).context("what the kernel tells cannot be read")?;
    let log = engine.kernel_log()?;
    let tasks = [
        tokio::spawn(rings::read(rings, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(server::metrics::serve(metrics, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(server::control::serve(control, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(observing::watch_traffic(Arc::clone(&engine), stopped.clone())),
        tokio::spawn(watching::keep(log, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(housekeeping::keep_house(Arc::clone(&engine), policy, changes, stopped.clone())),
    ];
    info!("guard is ready: metrics on http://{listen}/metrics, control socket {socket}");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&engine).await?,
            _ = interrupt.recv() => break info!("SIGINT"),
            _ = terminate.recv() => break info!("SIGTERM"),
            _ = stopped.changed() => break,
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    engine.stop();
    for task in tasks {
        task.await.context("a part of the agent failed")?;
    }
    engine.finish()
}

async fn reload(engine: &Arc<Engine>) -> Result<()> {
    info!("SIGHUP: reading the policy again");
    let engine = Arc::clone(engine);
    // What is wrong with it is logged and kept for the status.
    tokio::task::spawn_blocking(move || drop(engine.reload("SIGHUP"))).await.context("the reload failed")
}
