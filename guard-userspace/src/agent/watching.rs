//! Keeping the kernel told of what is watched, and writing what it logs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Engine;

/// How often the kernel is told: its own patience is three times that.
const RENEWAL: Duration = Duration::from_secs(1);
/// Lines are written in batches.
const BETWEEN_LINES: Duration = Duration::from_millis(50);

/// Runs until `stopped`.
pub(super) async fn keep(engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    let mut renewals = interval(RENEWAL);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let renew = async {
        loop {
            renewals.tick().await;
            engine.renew_watch();
        }
    };
    let write = async {
        if let Err(error) = write(&engine).await {
            engine.note_problem(format!(
                "the agent does not read the log of the XDP program, and drops are not logged: {error:#}"
            ));
        }
    };
    tokio::select! {
        // An error means that the agent is gone: an end too.
        _ = stopped.wait_for(|stopped| *stopped) => {}
        _ = async { tokio::join!(renew, write) } => {}
    }
    engine.end_watch();
}

async fn write(engine: &Engine) -> Result<()> {
    let log = engine.kernel_log()?;
    // SAFETY: the log owns its descriptor, so it stays open, and itself, for as long as it is registered.
    let mut log = unsafe { AsyncFd::register(log) }.map_err(io::Error::from).context("cannot wait for it")?;
    loop {
        let mut ready = log.readable_mut().await.context("cannot wait for it")?;
        let drops = ready.get_inner_mut().take();
        ready.clear_ready();
        engine.write_drops(&drops);
        sleep(BETWEEN_LINES).await;
    }
}
