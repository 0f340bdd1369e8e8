//! What keeps the work for each report of the kernel small.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guard_common::abi::SourceKey;

use super::offences::Accusation;
use crate::autoblock::Kind;
use crate::blocks::Protected;

/// What was found out a moment ago. The kernel reports a source over the threshold with each connection that it opens, also one that is
/// trusted, or whose connections are no evidence.
#[derive(Debug, Default)]
pub(super) struct Courtesies {
    protected: Option<(Instant, Arc<Protected>)>,
    /// When it was found of a source that it has not so much that is evidence.
    settled: HashMap<(SourceKey, Kind), Instant>,
}

impl Courtesies {
    const PROTECTED_FOR: Duration = Duration::from_secs(1);
    const SETTLED_FOR: Duration = Duration::from_millis(100);
    /// Past so many, what was found out is found out again.
    const MOST: usize = 10_000;

    /// The addresses that this host needs, as they were a moment ago.
    pub(super) fn protected(&mut self) -> Arc<Protected> {
        match &self.protected {
            Some((at, protected)) if at.elapsed() < Self::PROTECTED_FOR => Arc::clone(protected),
            _ => {
                let protected = Arc::new(Protected::of_host());
                self.protected = Some((Instant::now(), Arc::clone(&protected)));
                protected
            }
        }
    }

    /// Whether the evidence of the same accusation was read a moment ago, and was too little.
    pub(super) fn is_settled(&self, accusation: &Accusation) -> bool {
        let at = self.settled.get(&(accusation.key, accusation.kind));
        at.is_some_and(|at| at.elapsed() < Self::SETTLED_FOR)
    }

    pub(super) fn settle(&mut self, accusation: &Accusation) {
        if self.settled.len() >= Self::MOST {
            self.settled.clear();
        }
        self.settled.insert((accusation.key, accusation.kind), Instant::now());
    }
}
