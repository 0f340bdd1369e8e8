//! The two addresses that the agent serves: what cannot be had at the start is tried again, while the kernel guards.

use std::fs::File;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::Flock;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use super::problems::Topic;
use super::server::metrics::Exporter;
use super::{Engine, lock, server};

pub(super) const BETWEEN_TRIES: Duration = Duration::from_secs(3);

/// The control socket, which one agent has at a time.
pub(super) struct Control {
    socket: PathBuf,
    lock: Option<Flock<File>>,
    listener: Option<StdUnixListener>,
}

const METRICS: Topic = Topic::Server("metrics");

impl Control {
    /// Takes the lock of the socket; what hinders it, other than another agent, may pass.
    ///
    /// # Errors
    /// When another agent has it.
    pub(super) fn reserve(socket: &Path) -> Result<Self> {
        let lock = match lock::acquire(socket) {
            Err(error) if error.is::<lock::Taken>() => return Err(error),
            lock => lock.ok(),
        };
        Ok(Self { socket: socket.into(), lock, listener: None })
    }

    fn bind(&mut self) -> Result<StdUnixListener> {
        if self.lock.is_none() {
            self.lock = Some(lock::acquire(&self.socket)?);
        }
        server::control::bind(&self.socket)
    }

    /// The first try, with all privileges: the socket may go to a group.
    pub(super) fn begin(&mut self, engine: &Engine) {
        self.listener = told(engine, Topic::Control, self.bind());
    }

    /// Serves until `stopped`.
    pub(super) async fn serve(mut self, engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
        loop {
            let listener = self
                .listener
                .take()
                .map(|listener| UnixListener::from_std(listener).context("cannot serve the control socket"));
            if let Some(listener) = listener.and_then(|listener| told(&engine, Topic::Control, listener)) {
                info!("the control socket is {}", self.socket.display());
                server::control::serve(listener, engine, stopped).await;
                let _ = std::fs::remove_file(&self.socket);
                return;
            }
            if ended_within(BETWEEN_TRIES, &mut stopped).await {
                return;
            }
            // It asks for users and groups, which may take long.
            let bound = tokio::task::spawn_blocking(move || {
                let bound = self.bind();
                (self, bound)
            });
            let Ok((control, bound)) = bound.await else { return };
            self = control;
            self.listener = told(&engine, Topic::Control, bound);
        }
    }
}

/// The process that serves metrics. It ends with the thread that starts it, so that is the main one.
#[derive(Default)]
pub(super) struct Metrics {
    /// Started, and not answered yet.
    started: Option<Exporter>,
    is_served: bool,
}

impl Metrics {
    /// The first try, with all privileges: a port may need one.
    pub(super) fn begin(engine: &Engine) -> Self {
        Self { started: Self::start(engine), is_served: false }
    }

    /// Has the agent answer the process, and starts one if there is none. Called again and again, once privileges are gone.
    pub(super) fn serve(&mut self, engine: &Arc<Engine>) {
        if self.is_served {
            return;
        }
        let Some(exporter) = self.started.take().or_else(|| Self::start(engine)) else { return };
        self.is_served = told(engine, METRICS, exporter.answer(Arc::clone(engine))).is_some();
    }

    pub(super) const fn is_started(&self) -> bool {
        self.started.is_some()
    }

    fn start(engine: &Engine) -> Option<Exporter> {
        told(engine, METRICS, Exporter::start(engine.metrics_address()))
    }
}

/// Shows what failed as a problem, and the end of it.
fn told<T>(engine: &Engine, topic: Topic, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => {
            engine.problems.clear(topic);
            Some(value)
        }
        Err(error) => {
            engine.problems.set(topic, format!("{error:#}"));
            None
        }
    }
}

/// Waits. Returns whether the agent has ended meanwhile.
pub(super) async fn ended_within(time: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        // An error means that the agent is gone: an end too.
        _ = stopped.wait_for(|stopped| *stopped) => true,
        () = sleep(time) => false,
    }
}
