//! What the agent does without being asked: it looks after the kernel, watches the policy file, and tells systemd that it lives.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Engine;
use super::watched_file::WatchedFile;

/// How often the file and the deadline of a confirmation are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks from one check of all maps, pins and links to the next.
const LOOKS_A_CHECK: u64 = 5;

/// Runs until `stopped`. `policy` is the policy file, if it is watched.
pub(super) async fn keep_house(
    engine: Arc<Engine>,
    mut policy: Option<WatchedFile>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let changed = policy.as_mut().is_some_and(WatchedFile::has_changed);
        let check = number % LOOKS_A_CHECK == 0;
        number += 1;
        let engine = Arc::clone(&engine);
        let work = move || {
            if changed {
                info!("the policy file has changed");
                // What is wrong with it is logged and kept for the status.
                let _ = engine.reload();
            }
            if check {
                engine.look_after();
            } else if let Err(error) = engine.notice_return() {
                warn!("the maps cannot be read: {error:#}");
            }
            engine.beat();
        };
        if tokio::task::spawn_blocking(work).await.is_ok() {
            // Without systemd there is nobody to tell.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}
