//! What is not as it should be, by what it is about: said when it begins and when it ends, shown in between.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// What a problem is about. Of each there is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The agent runs with the last policy that was live, since it cannot use the file.
    LastPolicy,
    /// The agent cannot read the policy file.
    PolicyFile,
    /// The agent cannot write the copy of the live policy.
    KeptPolicy,
    /// The agent does not know the policy that awaits its confirmation.
    Pending,
    /// A server of the agent, by its name.
    Server(&'static str),
    /// The agent cannot serve the control socket.
    Control,
    /// The agent cannot read the events of the kernel.
    Events,
    /// The agent has failed on some events of the kernel.
    Batch,
    /// The kernel does not count connections as they come.
    Tracker,
    /// Sources that offend are not blocked.
    NotBlocked,
    /// The tables have no room for all connections.
    NoRoom,
    /// Lines of the log are lost.
    Log,
    /// Another program changed the kernel's tables of blocks.
    Drift,
    /// The agent cannot hear of changes of the network.
    Network,
}

/// The problems of this moment.
#[derive(Debug, Default)]
pub(super) struct Problems {
    by_topic: Mutex<BTreeMap<Topic, Problem>>,
}

#[derive(Debug)]
struct Problem {
    text: String,
    /// It ends by itself then, unless it is set again.
    until: Option<Instant>,
}

impl Problems {
    /// Lasts until [`clear`](Self::clear).
    pub(super) fn set(&self, topic: Topic, text: String) {
        self.put(topic, Problem { text, until: None });
    }

    /// Lasts for some time: for what is known only when it happens.
    pub(super) fn set_for(&self, topic: Topic, text: String, lasts: Duration) {
        self.put(topic, Problem { text, until: Instant::now().checked_add(lasts) });
    }

    /// The problem is over, if there was one.
    pub(super) fn clear(&self, topic: Topic) {
        if let Some(problem) = self.lock().remove(&topic) {
            info!("this problem is over: {}", problem.text);
        }
    }

    /// A sentence each.
    pub(super) fn list(&self) -> Vec<String> {
        let mut by_topic = self.lock();
        by_topic.retain(|_, problem| problem.until.is_none_or(|until| Instant::now() < until));
        by_topic.values().map(|problem| problem.text.clone()).collect()
    }

    fn put(&self, topic: Topic, problem: Problem) {
        let mut by_topic = self.lock();
        if by_topic.get(&topic).is_none_or(|known| known.text != problem.text) {
            warn!("{}", problem.text);
        }
        by_topic.insert(topic, problem);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Topic, Problem>> {
        self.by_topic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_lasts_until_it_is_cleared_or_its_time_is_over() {
        let problems = Problems::default();
        problems.set(Topic::Server("metrics"), "the port is taken".into());
        problems.set(Topic::Server("metrics"), "the port is still taken".into());
        problems.set_for(Topic::Control, "for an hour".into(), Duration::from_secs(3600));
        problems.set_for(Topic::Network, "for no time".into(), Duration::ZERO);
        assert_eq!(problems.list(), ["the port is still taken", "for an hour"]);
        problems.clear(Topic::Server("metrics"));
        problems.clear(Topic::Server("metrics"));
        assert_eq!(problems.list(), ["for an hour"]);
    }
}
