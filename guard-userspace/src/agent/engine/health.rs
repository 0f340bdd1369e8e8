//! Holding what the agent believes against what is: repaired where it can be, reported where it cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use super::{Engine, lock};
use crate::agent::heap;
use crate::agent::status::InterfaceStatus;

/// Seconds. Loading a million blocks takes less.
const LONGEST_SILENCE: u64 = 30;

/// What the last look has found.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What is not as it should be, a sentence each; empty is healthy.
    pub problems: Vec<String>,
    pub(super) interfaces: Vec<InterfaceStatus>,
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
        problems.extend(lock(&self.not_compared).clone());
        problems.extend(lock(&self.lasting_problems).iter().cloned());
        self.count_blocks(&parts.register);
        let keep = self.policies().kept_interfaces();
        kernel.attach_also(&policy, &keep);
        problems.extend(kernel.attached.problems());
        let interfaces = kernel.attached.status();
        drop(kernel);
        let mut health = lock(&self.health);
        problems.extend(lock(&self.side_problems).values().cloned());
        *health = Health { problems, interfaces };
        drop(health);
        heap::give_back();
    }

    /// Whether the program is still where it was put. The kernel tells nobody when a link is cut, so this is asked often: it costs some
    /// system calls.
    pub fn links_hold(&self) -> bool {
        let kernel = self.kernel();
        kernel.attached.indices().all(|index| kernel.datapath.is_attached(index))
    }

    pub fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Something has ended that should not; only another agent can begin it again.
    pub fn note_problem(&self, problem: String) {
        warn!("{problem}");
        lock(&self.lasting_problems).push(problem);
    }

    /// Says what is wrong beside the kernel, or that it is no longer. It shows at once.
    pub fn set_problem(&self, of: &'static str, problem: Option<String>) {
        let mut health = lock(&self.health);
        let mut problems = lock(&self.side_problems);
        let before = problems.remove(of);
        if before != problem {
            problem.iter().for_each(|problem| warn!("{problem}"));
        }
        health.problems.retain(|shown| Some(shown) != before.as_ref());
        health.problems.extend(problem.clone());
        problems.extend(problem.map(|problem| (of, problem)));
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
