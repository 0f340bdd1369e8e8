//! What the agent does without being asked: it looks after the kernel, watches the policy file, and tells systemd that it lives.

use std::future::pending;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Engine;
use super::policy_file::PolicyFile;
use super::problems::Topic;
use crate::limited;
use crate::network::Changes;

/// How often the file, the deadline of a confirmation and the links are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks from one check of all maps, pins and interfaces to the next.
const LOOKS_A_CHECK: u64 = 5;
/// How many looks from one comparison of the connections to the next: sockets are listed in some milliseconds.
const LOOKS_A_COMPARISON: u64 = 10;
/// Changes of the network come in bursts: what comes within this time is looked at once.
const BURST: Duration = Duration::from_millis(20);

/// Runs until `stopped`. `policy` is the policy file, if there is one.
pub(super) async fn keep_house(
    engine: Arc<Engine>,
    mut policy: Option<PolicyFile>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    let mut network = None;
    loop {
        let why = tokio::select! {
            _ = looks.tick() => Why::Time,
            heard = heard(&mut network) => Why::Network(heard),
            () = ended(&mut stopped) => return,
        };
        let (mut compare, mut check) = (false, true);
        let by_time = matches!(why, Why::Time);
        match why {
            Why::Time => {
                number += 1;
                compare = number % LOOKS_A_COMPARISON == 0;
                check = number % LOOKS_A_CHECK == 1;
                // Whoever listens anew looks at once: something may have changed before.
                check |= network.is_none() && listen(&mut network, &engine);
            }
            Why::Network(heard) => {
                sleep(BURST).await;
                let settled = heard.and_then(|()| network.as_mut().map_or(Ok(()), Changes::settle));
                if let Err(error) = settled {
                    network = None;
                    engine.problems.set(Topic::Network, deaf(&error));
                }
            }
        }
        let changed = by_time && policy.as_mut().is_some_and(|file| file.look(&engine));
        let engine = Arc::clone(&engine);
        let work = move || {
            let is_to_be_repeated = changed && engine.reload_when_free("the policy file has changed");
            if check || !engine.links_hold() {
                engine.look_after();
            } else if let Err(error) = engine.notice_return() {
                limited::warn(limited::Kind::Batch, || format!("the maps cannot be read: {error:#}"));
            }
            engine.reload_put_off();
            limited::flush();
            if compare {
                engine.compare_connections();
            }
            engine.beat();
            is_to_be_repeated
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(is_to_be_repeated) => {
                policy.iter_mut().filter(|_| changed).for_each(|file| file.note_try(is_to_be_repeated));
                // Without systemd there is nobody to tell.
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
            // What it was at may be half done, so the agent ends, and another begins anew.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => return,
            },
        }
    }
}

/// Why the agent looks.
enum Why {
    Time,
    Network(io::Result<()>),
}

/// Waits for a change of the network; for ever while the agent cannot listen.
async fn heard(network: &mut Option<Changes>) -> io::Result<()> {
    match network {
        Some(network) => network.next().await,
        None => pending().await,
    }
}

/// Begins to listen. Returns whether that worked.
fn listen(network: &mut Option<Changes>, engine: &Engine) -> bool {
    match Changes::listen() {
        Ok(changes) => {
            *network = Some(changes);
            engine.problems.clear(Topic::Network);
            true
        }
        Err(error) => {
            engine.problems.set(Topic::Network, deaf(&error));
            false
        }
    }
}

fn deaf(error: &io::Error) -> String {
    format!(
        "cannot listen to changes of the network, which are noticed some seconds late; the agent tries again: {error}"
    )
}

async fn ended(stopped: &mut watch::Receiver<bool>) {
    // An error means that the agent is gone: an end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
