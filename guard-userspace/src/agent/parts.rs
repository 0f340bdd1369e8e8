//! The parts of the agent that run side by side.

use anyhow::{Error, anyhow};
use tokio::task::{JoinError, JoinSet};

/// Parts by their names. None of them ends before the agent does.
#[derive(Debug, Default)]
pub(super) struct Parts {
    tasks: JoinSet<&'static str>,
    names: Vec<(tokio::task::Id, &'static str)>,
}

impl Parts {
    pub(super) fn add(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(async move {
            part.await;
            name
        });
        self.names.push((task.id(), name));
    }

    /// Waits until a part ends, which none should, and says which. An agent that lacks one looks well and is not: it ends, its service
    /// manager starts another, and the kernel goes on meanwhile.
    pub(super) async fn failed(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok(name)) => failure(name, "it has ended"),
            Some(Err(error)) => failure(self.name(&error), &cause_of(error)),
            None => failure("all", "there is none"),
        }
    }

    /// Waits until all have ended, as they were told to.
    ///
    /// # Errors
    /// When one has failed on the way.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                result = result.and(Err(failure(self.name(&error), &cause_of(error))));
            }
        }
        result
    }

    fn name(&self, error: &JoinError) -> &'static str {
        self.names.iter().find(|(id, _)| *id == error.id()).map_or("unknown", |(_, name)| name)
    }
}

fn failure(name: &str, why: &str) -> Error {
    anyhow!(
        "a part of the agent has failed ({name}): {why}; the kernel goes on to enforce the policy, start the agent again"
    )
}

/// What a panic has said, if it was one. It is in the log, too, with its place.
pub(super) fn cause_of(error: JoinError) -> String {
    let panic = match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => return error.to_string(),
    };
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    format!("it panicked: {}", text.unwrap_or("for no reason given"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_or_ends_is_noticed_at_once_by_its_name() {
        let mut parts = Parts::default();
        parts.add("control socket", pending());
        parts.add("housekeeping", async { panic!("out of {}", "brooms") });
        let said = parts.failed().await.to_string();
        assert!(said.contains("(housekeeping)") && said.contains("it panicked: out of brooms"), "{said}");
        parts.add("rings", async {});
        let said = parts.failed().await.to_string();
        assert!(said.contains("(rings)") && said.contains("it has ended"), "{said}");
    }

    #[tokio::test]
    async fn parts_that_end_when_they_are_told_to_are_no_failure() {
        let mut parts = Parts::default();
        parts.add("one", async {});
        parts.add("two", async {});
        assert!(parts.end().await.is_ok());
        let mut parts = Parts::default();
        parts.add("one", async {});
        parts.add("two", async { panic!("late") });
        assert!(parts.end().await.is_err_and(|error| error.to_string().contains("(two)")));
    }
}
