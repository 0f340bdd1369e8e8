//! What the agent does without being asked: it looks after the kernel, watches the policy file, and tells systemd that it lives.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::Engine;
use super::watched_file::WatchedFile;
use crate::network::Changes;

/// How often the file, the deadline of a confirmation and the links are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks from one check of all maps, pins and interfaces to the next.
const LOOKS_A_CHECK: u64 = 5;
/// How many looks from one comparison of the connections to the next: sockets are listed in some milliseconds.
const LOOKS_A_COMPARISON: u64 = 10;

/// Changes of the network come in bursts: what comes within this time is looked at once.
const BURST: Duration = Duration::from_millis(20);

/// Runs until `stopped`. `policy` is the policy file, if it is watched.
pub(super) async fn keep_house(
    engine: Arc<Engine>,
    mut policy: Option<WatchedFile>,
    mut network: Changes,
    mut stopped: watch::Receiver<bool>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        let why = tokio::select! {
            _ = looks.tick() => Why::Time,
            heard = network.next() => Why::Network(heard),
            () = ended(&mut stopped) => return,
        };
        let mut compare = false;
        let (changed, check) = match why {
            Why::Time => {
                number += 1;
                compare = number % LOOKS_A_COMPARISON == 0;
                (policy.as_mut().is_some_and(WatchedFile::has_changed), number % LOOKS_A_CHECK == 1)
            }
            Why::Network(heard) => {
                sleep(BURST).await;
                if let Err(error) = heard.and_then(|()| network.settle()) {
                    warn!("changes of the network are noticed late: {error}");
                    sleep(LOOK).await;
                }
                (false, true)
            }
        };
        let engine = Arc::clone(&engine);
        let work = move || {
            if changed {
                info!("the policy file has changed");
                // What is wrong with it is logged and kept for the status.
                let _ = engine.reload("the policy file");
            }
            if check || !engine.links_hold() {
                engine.look_after();
            } else if let Err(error) = engine.notice_return() {
                warn!("the maps cannot be read: {error:#}");
            }
            if compare {
                engine.compare_connections();
            }
            engine.beat();
        };
        if tokio::task::spawn_blocking(work).await.is_ok() {
            // Without systemd there is nobody to tell.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Why the agent looks.
enum Why {
    Time,
    Network(std::io::Result<()>),
}

async fn ended(stopped: &mut watch::Receiver<bool>) {
    // An error means that the agent is gone: an end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
