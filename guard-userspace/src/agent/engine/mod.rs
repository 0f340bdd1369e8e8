//! The agent's hold on the kernel: the program, its maps and links, the policy, and what is known of all of them.
//!
//! | module | what it does |
//! | --- | --- |
//! | `policy` | makes a policy live, and takes one back |
//! | `start` | the beginning, up to the program on the cards |
//! | `policies` | the policies that are known, and which of them is live |
//! | `attach`, `wanted` | keeps the program on the interfaces that the policy asks for |
//! | `unguarded` | tells of the interfaces without it |
//! | `blocks` | blocks and unblocks |
//! | `connections` | the count of connections, and their end |
//! | `offences` | what the kernel reports, and whom it gets blocked |
//! | `evidence` | what can be held against a source |
//! | `courtesies` | keeps the work for each report small |
//! | `watchers` | who watches drops: captures, and the log |
//! | `leaders` | the sources that send most |
//! | `observer` | what sources send over time |
//! | `top` | who sends how much at this moment |
//! | `health` | holds what is believed against what is |
//!
//! All that changes the kernel goes through one lock, so changes come one after the other. Reading needs no lock: the maps are opened a
//! second time for that, and a scrape does not wait for a million blocks.

mod attach;
mod blocks;
mod connections;
mod courtesies;
mod evidence;
mod health;
mod leaders;
mod observer;
mod offences;
mod policies;
mod policy;
mod reach;
mod start;
mod top;
mod unguarded;
mod wanted;
mod watchers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow};
use guard_common::abi::ServiceId;
use tokio::sync::watch;
use tracing::{info, warn};

use super::problems::Problems;
use super::{ExplainQuery, Settings, explain, log, status};
use crate::autoblock::WouldBlock;
use crate::blocks::{BlockCounts, Register};
use crate::config::{Capacity, OnExit, Policy, Source};
use crate::connections::Totals;
use crate::datapath::{Capacities, Datapath, Error, Maps, Rings, Succession};
use crate::drops::RecentDrops;
use crate::explain::{Background, Explanation};
use crate::ledger::Action;
use crate::sockets::Sockets;

use attach::Attached;
pub use blocks::{Admitted, admit, blocks_of};
use connections::Watch;
pub use health::Health;
use policies::Policies;
pub use policy::{Applied, ApplyError};
use watchers::Watchers;
pub use watchers::{CaptureError, Capturing};

pub struct Engine {
    settings: Settings,
    kernel: Mutex<Kernel>,
    /// The maps of the kernel once more, for reading.
    maps: Maps,
    /// Never held while something waits; taken after `kernel` where both are.
    policies: Mutex<Policies>,
    health: Mutex<Health>,
    /// Held while a copy of the policies is written.
    keeping: Mutex<()>,
    /// Never taken while another of these is held, and never held while another is taken.
    /// None until the sockets could be looked at for the first time.
    watch: Mutex<Option<Watch>>,
    /// As the last comparison has found them.
    connection_totals: Mutex<BTreeMap<ServiceId, Totals>>,
    /// Why the connections cannot be held against their sockets.
    not_compared: Mutex<Option<String>>,
    /// What was wrong from the start, and stays so.
    lasting_problems: Mutex<Vec<String>>,
    /// What is doubtful about the policy on this host, as the last comparison has found it.
    warnings: Mutex<Vec<String>>,
    pub(super) problems: Problems,
    looks: Mutex<top::Looks>,
    observer: Mutex<observer::Observer>,
    /// What ends connections: it does not wait for who only looks.
    killer: Mutex<Option<Sockets>>,
    drops: Mutex<RecentDrops>,
    courtesies: Mutex<courtesies::Courtesies>,
    would_block: Mutex<WouldBlock>,
    watchers: Mutex<Watchers>,
    /// As they were when they changed last: a scrape does not wait for who blocks.
    block_counts: Mutex<BlockCounts>,
    /// Connections that were closed.
    killed: AtomicU64,
    /// Connections that were counted wrongly.
    drift: AtomicU64,
    started: Instant,
    /// When the housekeeping came round last, in seconds after the start.
    beats: AtomicU64,
    /// Entries of blocks that another program had changed.
    block_drift: AtomicU64,
    /// When the kernel was asked last to count connections; none while it does.
    untracked: Mutex<Option<Instant>>,
    /// Lines of the log that were lost until the last look.
    log_lost: AtomicU64,
    stop: watch::Sender<bool>,
    detached: AtomicBool,
}

/// What only one may change at a time.
struct Kernel {
    datapath: Datapath,
    attached: Attached,
    register: Register,
    /// Whether the maps of the guard before this one are gone.
    is_retired: bool,
}

/// Why the agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a signal.
    Asked,
    /// By `guard detach`.
    Detached,
}

impl Engine {
    /// Loads the program or takes over the one that runs, makes the policy live, then puts the program on the interfaces.
    ///
    /// # Errors
    /// With what is wrong. What was in the kernel before goes on; if there was nothing, nothing stays.
    pub fn start(mut settings: Settings, source: &Source, stop: watch::Sender<bool>) -> Result<Self> {
        let was_there = settings.pins.exist();
        let begun = start::begin(&settings, source).or_else(|error| {
            if !error.is::<start::NotTaken>() {
                return Err(error);
            }
            let (last, refused) = start::last_instead(&settings, source, error)?;
            settings.refused = Some(refused);
            start::begin(&settings, &last)
        });
        let begun = begun.inspect_err(|_| {
            if !was_there && let Err(error) = settings.pins.remove_all() {
                warn!("what was begun could not be taken back: {error}; `guard detach` removes it");
            }
        })?;
        Ok(Self::of(settings, begun, stop))
    }

    fn of(settings: Settings, begun: start::Begun, stop: watch::Sender<bool>) -> Self {
        let start::Begun { mut kernel, maps, mut policies } = begun;
        // The ledger may take long, or fail: the next look tries again.
        if let Err(error) = kernel.register.begin(kernel.datapath.maps_mut()) {
            warn!("the blocks of the ledger are not in the kernel yet: {error}");
        }
        let generation = policies.generation();
        policies.note_refusal(settings.refused.as_ref().map(|refused| refused.why.clone()));
        let engine = Self {
            kernel: Mutex::new(kernel),
            maps,
            policies: Mutex::new(policies),
            health: Mutex::default(),
            keeping: Mutex::default(),
            watch: Mutex::default(),
            connection_totals: Mutex::default(),
            not_compared: Mutex::default(),
            warnings: Mutex::default(),
            lasting_problems: Mutex::default(),
            problems: Problems::default(),
            looks: Mutex::default(),
            observer: Mutex::new(observer::Observer::begin(&settings.state)),
            killer: Mutex::default(),
            drops: Mutex::default(),
            courtesies: Mutex::default(),
            would_block: Mutex::default(),
            watchers: Mutex::new(Watchers::begin(settings.log_drops)),
            block_counts: Mutex::default(),
            killed: AtomicU64::new(0),
            drift: AtomicU64::new(0),
            settings,
            started: Instant::now(),
            beats: AtomicU64::new(0),
            block_drift: AtomicU64::new(0),
            untracked: Mutex::default(),
            log_lost: AtomicU64::new(0),
            stop,
            detached: AtomicBool::new(false),
        };
        engine.begin_problems();
        engine.note(Action::Start, "guard", Ok(Some(serde_json::json!({ "generation": generation }))));
        engine.track_connections();
        engine.compare_connections();
        engine.look_after();
        engine
    }

    /// Whether the last policy that was live guards in the place of the one that the agent was started with.
    pub fn uses_last_policy(&self) -> bool {
        self.settings.refused.is_some()
    }

    /// What guard is and has counted.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn status(&self) -> Result<status::Status> {
        let mut status = status::of_maps(&self.maps)?;
        status.connections = status::of_connections(&self.maps, &self.connection_totals(&status.maps)?)?;
        status.pid = Some(std::process::id());
        status.uptime_seconds = Some(self.started.elapsed().as_secs());
        status.connection_drift = self.drift.load(Ordering::Relaxed);
        status.block_drift = self.block_drift.load(Ordering::Relaxed);
        status.sockets_killed = self.killed.load(Ordering::Relaxed);
        status.blocks = *lock(&self.block_counts);
        status.lost.log_lines = log::lost();
        let policies = self.policies();
        status.policy = policies.status(&self.maps)?;
        status.services = policies.live().services.iter().map(status::of_service).collect();
        drop(policies);
        status.would_block = self.would_block();
        status.warnings = lock(&self.warnings).clone();
        let Health { problems, interfaces, unguarded } = self.health();
        (status.problems, status.interfaces, status.unguarded) = (problems, interfaces, unguarded);
        Ok(status)
    }

    /// What a packet would get now, and why.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn explain(&self, query: &ExplainQuery) -> Result<Vec<Explanation>> {
        let blocks = self.blocks_around(query.source)?;
        let would_block = self.would_block();
        let policies = self.policies();
        let (policy, file) = policies.live_and_file();
        Ok(explain(&self.maps, query, &Background { policy: Some(policy), file, blocks, would_block })?)
    }

    /// Takes guard out of the kernel and ends the agent. Returns how many interfaces it was on.
    ///
    /// # Errors
    /// When something stays in the kernel.
    pub fn detach(&self, by: &str) -> Result<usize> {
        let mut kernel = self.kernel();
        let interfaces = self.settings.pins.remove_all()?;
        let details = serde_json::json!({ "interfaces": interfaces });
        kernel.register.record(blocks::event_of(Action::Detach, by, Ok(Some(details))));
        kernel.attached = Attached::default();
        self.detached.store(true, Ordering::SeqCst);
        self.stop();
        Ok(interfaces)
    }

    /// Ends the agent.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The end: the policy says whether guard stays in the kernel.
    ///
    /// # Errors
    /// When guard was to leave the kernel and could not.
    pub fn finish(&self) -> Result<End> {
        self.note(Action::Stop, "guard", Ok(None));
        let mut kernel = self.kernel();
        kernel.register.close();
        if self.detached.load(Ordering::SeqCst) {
            info!("guard has left the kernel");
            return Ok(End::Detached);
        }
        match self.policies().live().attach.on_exit {
            OnExit::Keep => {
                info!(
                    "the agent ends; the kernel goes on to enforce the policy (on_exit = \"keep\"); `guard detach` ends that"
                );
            }
            OnExit::Detach => {
                self.settings
                    .pins
                    .remove_all()
                    .map_err(|error| anyhow!("guard could not leave the kernel: {error}"))?;
                info!("guard has left the kernel (on_exit = \"detach\")");
            }
        }
        Ok(End::Asked)
    }

    /// Where the live policy wants metrics to be served.
    pub(super) fn metrics_address(&self) -> SocketAddr {
        self.policies().live().metrics.listen
    }

    /// What the kernel tells, opened once more.
    ///
    /// # Errors
    /// When the rings are not pinned or cannot be opened.
    pub(super) fn rings(&self) -> Result<Rings, Error> {
        Rings::open(&self.settings.pins)
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        lock(&self.kernel)
    }

    fn policies(&self) -> MutexGuard<'_, Policies> {
        lock(&self.policies)
    }
}

/// A panic of another task leaves the maps as the kernel has them, so what is behind the lock is good all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn capacities(policy: &Policy) -> Capacities {
    let Capacity { blocks, sources, connections } = policy.capacity;
    Capacities { blocks, sources, connections }
}

fn announce(succession: &Succession) {
    let Succession { from, why, blocks, sources } = succession;
    info!(
        "the maps are made anew, since {why}; taken over from {from}: {blocks} blocks, limiter state of {sources} sources"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_does_not_say_has_the_tables_default_sizes() {
        assert_eq!(capacities(&Policy::default()), Capacities::default());
    }
}
