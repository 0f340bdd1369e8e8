//! Looking once a second at what sources send, while that is wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Engine;

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Runs until `stopped`.
pub(super) async fn watch_traffic(engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    let mut looks = interval(BETWEEN_LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_failed = false;
    loop {
        tokio::select! {
            // An error means that the agent is gone: an end too.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            _ = looks.tick() => {}
        }
        let looking = Arc::clone(&engine);
        match tokio::task::spawn_blocking(move || looking.observe()).await {
            Ok(Ok(())) => has_failed = false,
            Ok(Err(error)) if !has_failed => {
                warn!("what sources send cannot be read: {error:#}");
                has_failed = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    engine.keep_seen();
}
