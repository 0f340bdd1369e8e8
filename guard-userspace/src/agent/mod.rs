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
mod system_calls;
pub mod top;
mod watched_file;
mod watching;

use std::ffi::OsString;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::config::{LogLevel, Origin, Source};
use crate::datapath::pins::Pins;
use crate::datapath::{Rings, host};
use crate::network::{self, Changes};
use server::metrics::Exporter;
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

/// Threads that wait for the kernel: more than all that the servers and the agent itself can have under way at once.
const THREADS: usize = 64;

/// Serves metrics in the name of an agent, if this process was started for that: then these are its arguments.
pub fn serve_metrics(arguments: &[OsString]) -> Option<ExitCode> {
    server::metrics::keep(arguments)
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
    let metrics = Exporter::start(source.checked.policy.metrics.listen)?;
    let control = server::control::bind(&settings.socket)?;
    // Threads inherit what is left, so this comes before the first.
    privileges::drop_others()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
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
    metrics: Exporter,
    control: StdUnixListener,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let control = UnixListener::from_std(control).context("cannot serve the control socket")?;
    let socket = settings.socket.display().to_string();
    let policy = settings.origin.file.as_ref().filter(|_| settings.watch).map(|file| WatchedFile::new(file));

    // Before the first look, so that nothing falls between the two.
    let changes = Changes::listen().context("cannot listen to changes of the network")?;

    let (stop, mut stopped) = watch::channel(false);
    let pins = settings.pins.clone();
    let engine = Arc::new(Engine::start(settings, source, stop)?);
    let rings = Rings::open(&pins).context("what the kernel tells cannot be read")?;
    let log = engine.kernel_log()?;
    metrics.answer(Arc::clone(&engine))?;
    let tasks = [
        tokio::spawn(rings::read(rings, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(server::control::serve(control, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(observing::watch_traffic(Arc::clone(&engine), stopped.clone())),
        tokio::spawn(watching::keep(log, Arc::clone(&engine), stopped.clone())),
        tokio::spawn(housekeeping::keep_house(Arc::clone(&engine), policy, changes, stopped.clone())),
    ];
    info!("guard is ready: control socket {socket}");
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
