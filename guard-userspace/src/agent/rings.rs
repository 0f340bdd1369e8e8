//! Reading what the program tells, as it comes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use guard_common::abi::{Captured, Offence, Sample};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::Engine;
use crate::datapath::{Ring, Rings};

/// So many are handled at once.
const BATCH: usize = 1024;
/// Samples come by the thousand in a flood; nobody reads faster than this.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(50);
/// The ring has room for what comes in a third of a second of a flood, on two CPUs.
const BETWEEN_FRAMES: Duration = Duration::from_millis(10);

/// Reads until `stopped`.
pub(super) async fn read(rings: Rings, engine: Arc<Engine>, stopped: watch::Receiver<bool>) {
    let Rings { samples, offences, captures } = rings;
    let samples = handle(
        samples,
        Arc::clone(&engine),
        BETWEEN_SAMPLES,
        stopped.clone(),
        |engine, batch: Vec<Sample>| {
            engine.take_samples(&batch);
        },
    );
    let offences = handle(
        offences,
        Arc::clone(&engine),
        Duration::ZERO,
        stopped.clone(),
        |engine, batch: Vec<Offence>| {
            engine.take_offences(&batch);
        },
    );
    let captures = handle(captures, engine, BETWEEN_FRAMES, stopped, |engine, batch: Vec<Captured>| {
        engine.take_captures(&batch);
    });
    for result in <[_; 3]>::from(tokio::join!(samples, offences, captures)) {
        if let Err(error) = result {
            warn!("what the kernel tells is not read any longer: {error:#}");
        }
    }
}

async fn handle<T: Send + 'static>(
    ring: Ring<T>,
    engine: Arc<Engine>,
    pause: Duration,
    mut stopped: watch::Receiver<bool>,
    handle: fn(&Engine, Vec<T>),
) -> Result<()>
where
    Ring<T>: Iterator<Item = T>,
{
    // SAFETY: the ring owns its descriptor, so it stays open, and itself, for as long as it is registered.
    let mut ring =
        unsafe { AsyncFd::register(ring) }.map_err(io::Error::from).context("cannot wait for it")?;
    loop {
        let mut ready = tokio::select! {
            ready = ring.readable_mut() => ready.context("cannot wait for it")?,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let batch: Vec<T> = ready.get_inner_mut().take(BATCH).collect();
        if batch.len() < BATCH {
            ready.clear_ready();
        }
        if batch.is_empty() {
            continue;
        }
        let engine = Arc::clone(&engine);
        tokio::task::spawn_blocking(move || handle(&engine, batch)).await.context("the work on it failed")?;
        sleep(pause).await;
    }
}
