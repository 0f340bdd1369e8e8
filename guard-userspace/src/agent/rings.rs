//! Reading what the program tells, as it comes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guard_common::abi::{Captured, Offence, Sample, Surplus};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch::Receiver;
use tokio::time::sleep;

use super::Engine;
use super::listeners::ended_within;
use super::parts::cause_of;
use super::problems::Topic;
use crate::datapath::{Ring, Rings};
use crate::limited::{self, Kind};

/// So many are handled at once.
const BATCH: usize = 1024;
/// Samples come by the thousand in a flood; nobody reads faster than this.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(50);
/// Handshakes that run together are ended together: to list the sockets takes longer than to end one.
const BETWEEN_SURPLUS: Duration = Duration::from_millis(10);
/// The ring has room for what comes in a third of a second of a flood, on two CPUs.
const BETWEEN_FRAMES: Duration = Duration::from_millis(10);
const BETWEEN_TRIES: Duration = Duration::from_secs(3);

/// How long a failure is shown: what failed on one batch need not fail on the next.
const SHOWN: Duration = Duration::from_secs(60);

/// Reads until `stopped`; opens the rings again when they cannot be read.
pub(super) async fn keep(engine: Arc<Engine>, mut stopped: Receiver<bool>) {
    loop {
        let opened = engine.rings();
        if opened.is_ok() {
            engine.problems.clear(Topic::Events);
        }
        let read = match opened {
            Ok(rings) => read(rings, &engine, &stopped).await,
            Err(error) => Err(error.into()),
        };
        // Without an error the agent has ended.
        let Err(error) = read else { return };
        let problem = format!(
            "the agent cannot read the events of the kernel: drops are not shown, and no source is blocked by itself; it tries again: {error:#}"
        );
        engine.problems.set(Topic::Events, problem);
        if ended_within(BETWEEN_TRIES, &mut stopped).await {
            return;
        }
    }
}

async fn read(rings: Rings, engine: &Arc<Engine>, stopped: &Receiver<bool>) -> Result<()> {
    let Rings { samples, offences, surplus, captures } = rings;
    let (of, until) = (|| Arc::clone(engine), || stopped.clone());
    let samples = handle(samples, of(), BETWEEN_SAMPLES, until(), |engine, batch: Vec<Sample>| {
        engine.take_samples(&batch);
    });
    let offences = handle(offences, of(), Duration::ZERO, until(), |engine, batch: Vec<Offence>| {
        engine.take_offences(&batch);
    });
    let surplus = handle(surplus, of(), BETWEEN_SURPLUS, until(), |engine, batch: Vec<Surplus>| {
        engine.take_surplus(&batch);
    });
    let captures = handle(captures, of(), BETWEEN_FRAMES, until(), |engine, batch: Vec<Captured>| {
        engine.take_captures(&batch);
    });
    tokio::try_join!(
        named("dropped packets", samples),
        named("sources over a threshold", offences),
        named("connections too many", surplus),
        named("captured frames", captures),
    )?;
    Ok(())
}

async fn named(of: &str, reader: impl Future<Output = Result<()>>) -> Result<()> {
    reader.await.with_context(|| format!("the ring of {of}"))
}

async fn handle<T: Send + 'static>(
    ring: Ring<T>,
    engine: Arc<Engine>,
    pause: Duration,
    mut stopped: Receiver<bool>,
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
        let begun = Instant::now();
        // What failed on one batch need not fail on the next.
        let handler = Arc::clone(&engine);
        if let Err(error) = tokio::task::spawn_blocking(move || handle(&handler, batch)).await {
            let problem = format!("the agent has failed on events of the kernel: {}", cause_of(error));
            limited::warn(Kind::Batch, || problem.clone());
            engine.problems.set_for(Topic::Batch, problem, SHOWN);
        }
        // What takes long is done for the more at once.
        sleep(if pause.is_zero() { pause } else { pause.max(3 * begun.elapsed()) }).await;
    }
}
