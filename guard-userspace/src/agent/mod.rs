//! The agent: loads the policy, keeps the program on its interfaces, and answers.
//!
//! ```text
//! signals ──────┐
//! policy file ──┤
//! control ──────┼─> Engine ─> datapath (maps, program, links)
//! metrics ──────┘      └────> Status, which all of them show
//! ```

mod descriptors;
mod engine;
mod explain;
mod heap;
mod housekeeping;
mod interfaces;
mod kept;
mod listeners;
mod lock;
pub mod log;
mod metrics;
mod observing;
mod parts;
mod policy_file;
mod privileges;
mod problems;
mod rings;
mod server;
mod status;
mod system_calls;
pub mod top;
mod unit;
mod watched_file;
mod watching;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::interval;
use tracing::info;

use crate::config::{LogLevel, Origin, Source};
use crate::datapath::host;
use crate::datapath::pins::Pins;
use listeners::{Control, Metrics};
use parts::Parts;
use policy_file::PolicyFile;

pub use engine::{
    Admitted, Applied, ApplyError, CaptureError, Capturing, End, Engine, Health, admit, blocks_of,
};
pub use explain::{ExplainQuery, explain, protocol_name};
pub use kept::last_policy;
pub use metrics::{Format, gather};
pub use server::{Peer, readers};
pub use status::{
    CounterStatus, InterfaceStatus, MapStatus, PolicyStatus, ServiceStatus, Status, UnguardedStatus,
};

/// Why the policy of a start is not the one of the file, but the last one that was live.
#[derive(Clone, Debug)]
pub struct Refused {
    pub why: String,
    /// The policy is right, and the kernel does not take it.
    pub by_kernel: bool,
}

impl Refused {
    fn problem(&self, file: &Path) -> String {
        let (first, file) = (self.why.lines().next().unwrap_or_default(), file.display());
        let advice = if self.by_kernel {
            "the agent tries it again, less and less often".into()
        } else {
            format!("mend it, `guard check {file}` says what is wrong")
        };
        let cannot =
            if self.by_kernel { "is right, but the kernel does not take it" } else { "cannot be used" };
        format!(
            "the policy {file} {cannot}, and the last one that was live guards instead: {first}; {advice}"
        )
    }
}

/// What the agent is started with.
#[derive(Clone)]
pub struct Settings {
    /// Where the policy is read from, now and at each reload.
    pub origin: Origin,
    /// Set where the policy of the start is not the one of `origin`.
    pub refused: Option<Refused>,
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
/// The program is on its interfaces before anything else is tried. What fails after that is a problem, which is shown and tried again.
///
/// # Errors
/// When guard cannot start: then nothing of this start stays in the kernel. When it cannot end cleanly.
pub fn run(settings: Settings, source: &Source) -> Result<End> {
    host::check()?;
    heap::few_arenas();
    descriptors::take_all();
    interfaces::check_start(source, &settings.pins)?;
    let mut control = Control::reserve(&settings.socket)?;
    let (stop, stopped) = watch::channel(false);
    let policy = settings.origin.file.as_ref();
    let mut policy = policy.map(|file| PolicyFile::new(file, settings.watch));
    let engine = Arc::new(Engine::start(settings, source, stop)?);
    policy.iter_mut().filter(|_| engine.uses_last_policy()).for_each(PolicyFile::forget);
    control.begin(&engine);
    let metrics = Metrics::begin(&engine);
    // Threads inherit what is left, so this comes before those that last.
    privileges::drop_others()?;
    // Without its process for metrics the agent has another try, and needs a call more.
    if metrics.is_started() {
        system_calls::give_up_dangerous_ones()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    runtime.block_on(serve(engine, policy, control, metrics, stopped))
}

async fn serve(
    engine: Arc<Engine>,
    policy: Option<PolicyFile>,
    control: Control,
    mut metrics: Metrics,
    mut stopped: watch::Receiver<bool>,
) -> Result<End> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut parts = Parts::default();
    parts.add("events of the kernel", rings::keep(Arc::clone(&engine), stopped.clone()));
    parts.add("control socket", control.serve(Arc::clone(&engine), stopped.clone()));
    parts.add("recommend", observing::watch_traffic(Arc::clone(&engine), stopped.clone()));
    parts.add("captures", watching::keep(Arc::clone(&engine), stopped.clone()));
    parts.add("housekeeping", housekeeping::keep_house(Arc::clone(&engine), policy, stopped.clone()));
    info!("guard is ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    let mut tries = interval(listeners::BETWEEN_TRIES);
    loop {
        tokio::select! {
            // A part that ends since all are to end is no failure.
            biased;
            _ = stopped.changed() => break,
            _ = tries.tick() => metrics.serve(&engine),
            _ = hangup.recv() => reload(&engine).await?,
            _ = interrupt.recv() => break info!("SIGINT"),
            _ = terminate.recv() => break info!("SIGTERM"),
            // The others are let go of, and nothing of the kernel is.
            failure = parts.failed() => return Err(failure),
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    engine.stop();
    parts.end().await?;
    engine.finish()
}

async fn reload(engine: &Arc<Engine>) -> Result<()> {
    let engine = Arc::clone(engine);
    // What is wrong with it is logged and kept for the status.
    let reloaded = tokio::task::spawn_blocking(move || engine.reload_when_free("SIGHUP")).await;
    reloaded.map(drop).context("the reload failed")
}
