//! Holding what the agent believes against what is: repaired where it can be, reported where it cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::warn;

use super::attach::Leaving;
use super::{Engine, lock};
use crate::agent::problems::Topic;
use crate::agent::status::{InterfaceStatus, UnguardedStatus};
use crate::agent::{heap, log};
use crate::limited;

/// The kernel refuses for a while where it has no memory, and for good where it cannot: to ask it costs some milliseconds.
const BETWEEN_TRIES: Duration = Duration::from_secs(60);
/// How long it is a problem that another program changed the kernel's tables.
const DRIFT_FOR: Duration = Duration::from_secs(60);
/// How long it is a problem that lines of the log were lost.
const LOG_LOST_FOR: Duration = Duration::from_secs(60);

/// Seconds. Loading a million blocks takes less.
const LONGEST_SILENCE: u64 = 30;

/// What the last look has found.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What is not as it should be, a sentence each; empty is healthy.
    pub problems: Vec<String>,
    pub(super) interfaces: Vec<InterfaceStatus>,
    pub(super) unguarded: Vec<UnguardedStatus>,
}

impl Engine {
    /// Looks at maps, links and the policy, repairs what it can, and notes the rest.
    pub fn look_after(&self) {
        let mut problems = Vec::new();
        if let Err(error) = self.notice_return() {
            problems.push(format!("the maps cannot be read: {error:#}"));
        }
        let policy = Arc::clone(self.policies().live());
        let mut kernel = self.kernel();
        if self.detached.load(Ordering::SeqCst) {
            return;
        }
        match kernel.datapath.repair_pins() {
            Ok(0) => {}
            Ok(repaired) => warn!("{repaired} pins were gone, and are there again"),
            Err(error) => problems.push(error.to_string()),
        }
        let parts = &mut *kernel;
        if let Err(error) = parts.register.sweep(parts.datapath.maps_mut()) {
            problems.push(format!("blocks are not as the ledger has them: {error}"));
        }
        problems.extend(parts.register.not_in_force());
        match parts.register.mend(parts.datapath.maps_mut()) {
            Ok(0) => {}
            Ok(mended) => self.note_drift(mended),
            Err(error) => {
                problems.push(format!("the blocks in the kernel cannot be compared with the ledger: {error}"))
            }
        }
        self.block_drift.store(parts.register.drift(), Ordering::Relaxed);
        if !parts.is_retired {
            match parts.datapath.retire() {
                Ok(()) => parts.is_retired = true,
                Err(error) => problems.push(format!(
                    "cannot remove the maps of the guard before this one: {error}; the agent tries again, and `guard detach` removes them"
                )),
            }
        }
        problems.extend(lock(&self.not_compared).clone());
        problems.extend(lock(&self.lasting_problems).iter().cloned());
        self.count_blocks(&parts.register);
        let keep = self.policies().kept_interfaces();
        kernel.attach_also(&policy, &keep, Leaving::Now);
        problems.extend(kernel.attached.problems());
        let interfaces = kernel.attached.status();
        let unguarded = kernel.attached.unguarded().to_vec();
        drop(kernel);
        *lock(&self.health) = Health { problems, interfaces, unguarded };
        self.keep_policies();
        self.look_at_log();
        if lock(&self.untracked).is_some_and(|tried| tried.elapsed() > BETWEEN_TRIES) {
            self.track_connections();
        }
        heap::give_back();
    }

    /// Has the kernel count connections as they come; where it does not, that is a problem, and tried again.
    pub(super) fn track_connections(&self) {
        let tracked = self.kernel().datapath.track_connections();
        *lock(&self.untracked) = tracked.is_err().then(Instant::now);
        match tracked {
            Ok(()) => self.problems.clear(Topic::Tracker),
            Err(error) => {
                let problem =
                    format!("connections are not counted as they come, only every few seconds: {error}");
                self.problems.set(Topic::Tracker, problem);
            }
        }
    }

    fn note_drift(&self, mended: usize) {
        limited::warn(limited::Kind::Drift, || {
            format!(
                "{mended} entries of blocks were changed in the kernel by another program, and are mended"
            )
        });
        let problem = "another program changes the tables of blocks in the kernel; what differs is mended: `guard events` names the entries";
        self.problems.set_for(Topic::Drift, problem.into(), DRIFT_FOR);
    }

    fn look_at_log(&self) {
        let lost = log::lost();
        if lost > self.log_lost.swap(lost, Ordering::Relaxed) {
            let problem =
                "lines of the log are lost: what reads the agent's stderr does not keep up, or stands still";
            self.problems.set_for(Topic::Log, problem.into(), LOG_LOST_FOR);
        }
    }

    /// Whether the program is still where it was put. The kernel tells nobody when a link is cut, so this is asked often: it costs some
    /// system calls.
    pub fn links_hold(&self) -> bool {
        let kernel = self.kernel();
        // What cannot be known now is looked at again.
        kernel.attached.indices().all(|index| kernel.datapath.is_attached(index).unwrap_or(true))
    }

    /// What the last look has found, and what else is wrong at this moment.
    pub fn health(&self) -> Health {
        let mut health = lock(&self.health).clone();
        health.problems.extend(self.problems.list());
        health
    }

    /// Something has ended that should not; only another agent can begin it again.
    pub fn note_problem(&self, problem: String) {
        warn!("{problem}");
        lock(&self.lasting_problems).push(problem);
    }

    /// Says what is wrong with a server, or that nothing is any longer. It shows at once.
    pub fn set_problem(&self, of: &'static str, problem: Option<String>) {
        match problem {
            Some(problem) => self.problems.set(Topic::Server(of), problem),
            None => self.problems.clear(Topic::Server(of)),
        }
    }

    /// The housekeeping has come round again.
    pub fn beat(&self) {
        self.beats.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// # Errors
    /// When the housekeeping is stuck, with for how long.
    pub fn pulse(&self) -> Result<(), String> {
        let silent = self.started.elapsed().as_secs().saturating_sub(self.beats.load(Ordering::Relaxed));
        if silent > LONGEST_SILENCE {
            return Err(format!("the agent has not looked after the kernel for {silent} s"));
        }
        Ok(())
    }
}
