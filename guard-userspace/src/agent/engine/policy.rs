//! Making a policy live, and taking one back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Engine, lock};
use crate::agent::interfaces;
use crate::agent::policy_file::unreadable;
use crate::agent::problems::Topic;
use crate::config::{Policy, Report, Source};
use crate::datapath::{Datapath, Prepared};
use crate::ledger::Action;
use crate::plan::{self, Plan};

/// What was made live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub generation: u64,
    /// The services that are guarded now.
    pub services: Vec<String>,
    /// Doubts about the policy, and what of it needs more than this.
    pub warnings: Vec<String>,
    /// Milliseconds in which it must be confirmed.
    pub confirm_within: Option<u64>,
}

/// Why a policy was not made live. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// With places, as `guard check` shows them.
    #[error("{0}")]
    BadPolicy(Report),
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for ApplyError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast() {
            Ok(report) => Self::BadPolicy(report),
            Err(error) => Self::Failed(error),
        }
    }
}

/// Writes a policy into the kernel, where it is not live yet.
pub(super) fn prepare(datapath: &mut Datapath, policy: &Policy) -> Result<Prepared> {
    let plan = planned(datapath, policy)?;
    Ok(datapath.maps_mut().prepare(&plan)?)
}

fn planned(datapath: &Datapath, policy: &Policy) -> Result<Plan> {
    let known = datapath.maps().service_names()?;
    plan::compile(policy, &known).context("the policy does not fit into the tables")
}

/// Writes a policy into the kernel and makes it live, for `time` or for good. Returns its generation.
pub(super) fn publish(datapath: &mut Datapath, policy: &Policy, time: Option<Duration>) -> Result<u64> {
    let plan = planned(datapath, policy)?;
    let generation = match time {
        None => datapath.maps_mut().publish(&plan)?,
        Some(time) => datapath.maps_mut().publish_for(&plan, time)?,
    };
    info!("policy generation {generation} is live: {}", service_names(policy).join(", "));
    Ok(generation)
}

pub(super) fn service_names(policy: &Policy) -> Vec<String> {
    policy.services.iter().map(|service| service.name.clone()).collect()
}

impl Engine {
    /// Reads the policy again from where the agent has it from, and makes it live.
    ///
    /// # Errors
    /// When it is not right, or cannot be made live.
    pub fn reload(&self, by: &str) -> Result<Applied, ApplyError> {
        let result = self.read_policy().and_then(|source| self.activate(&source, None));
        self.note_reload(&result);
        self.note(Action::Reload, by, outcome(&result));
        result
    }

    fn read_policy(&self) -> Result<Source, ApplyError> {
        let origin = &self.settings.origin;
        origin.read().map_err(|error| match (error.downcast_ref(), &origin.file) {
            (Some(cause), Some(file)) => ApplyError::Failed(anyhow!(unreadable(file, cause))),
            _ => ApplyError::from(error),
        })
    }

    /// The same for a change that was made without an answer to wait for: while a policy awaits its confirmation it is put off until that
    /// policy is confirmed or gone. What is wrong with it is logged and kept for the status. Returns whether it is worth another try, since
    /// not the policy was to blame.
    pub fn reload_when_free(&self, why: &str) -> bool {
        if self.maps.live().is_ok_and(|live| live.unconfirmed_for.is_some()) {
            info!("{why}: it is read once the policy that awaits its confirmation is confirmed or gone");
            self.policies().put_off();
            return false;
        }
        info!("{why}: reading the policy again");
        matches!(self.reload(why), Err(ApplyError::Failed(_)))
    }

    /// Reads the policy that was put off, if nothing is in its way any longer.
    pub fn reload_put_off(&self) {
        let is_free = self.maps.live().is_ok_and(|live| live.unconfirmed_for.is_none());
        if is_free && self.policies().take_put_off() {
            self.reload_when_free("the policy that was put off");
        }
    }

    /// Makes the policy `text` live, which is in `file`; for `time`, or for good. The flags that the agent was started with win over it.
    ///
    /// # Errors
    /// When it is not right, or cannot be made live.
    pub fn apply(
        &self,
        text: String,
        file: &Path,
        time: Option<Duration>,
        by: &str,
    ) -> Result<Applied, ApplyError> {
        let source = self.settings.origin.parse(text, file).map_err(ApplyError::from);
        let result = source.and_then(|source| self.activate(&source, time));
        self.note(Action::Apply, by, outcome(&result));
        result
    }

    /// Keeps the policy that waits for it. Returns its generation, or none if none waits any longer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn confirm(&self, by: &str) -> Result<Option<u64>> {
        let mut kernel = self.kernel();
        if !kernel.datapath.maps_mut().confirm()? {
            return Ok(None);
        }
        let mut policies = self.policies();
        policies.confirm();
        let generation = policies.generation();
        drop(policies);
        drop(kernel);
        info!("policy generation {generation} is confirmed");
        self.keep_policies();
        self.note(Action::Confirm, by, Ok(Some(json!({ "generation": generation }))));
        self.look_after();
        Ok(Some(generation))
    }

    /// Notices that a policy was not confirmed in time: the packet path has gone back already. Or that it was confirmed without this agent.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn notice_return(&self) -> Result<()> {
        let kernel = self.kernel();
        let in_kernel = self.maps.live()?;
        let mut policies = self.policies();
        if in_kernel.unconfirmed_for.is_some() || !policies.awaits_confirmation() {
            return Ok(());
        }
        if in_kernel.generation == policies.generation() {
            policies.confirm();
        } else {
            policies.go_back(in_kernel.generation);
        }
        drop(policies);
        drop(kernel);
        self.keep_policies();
        Ok(())
    }

    /// Keeps a copy of the policies for the next agent. What hinders it is a problem, and tried again.
    pub(super) fn keep_policies(&self) {
        // One at a time, so that the last to write knows the most.
        let _keeping = lock(&self.keeping);
        let to_keep = self.policies().to_keep(&self.settings);
        let Some((kept, change)) = to_keep else { return self.problems.clear(Topic::KeptPolicy) };
        match kept.write(&self.settings.state) {
            Ok(()) => {
                self.problems.clear(Topic::KeptPolicy);
                self.policies().note_kept(change);
            }
            Err(error) => self.problems.set(Topic::KeptPolicy, format!("{error:#}")),
        }
    }

    /// What is wrong from the start of this agent on, and may pass.
    pub(super) fn begin_problems(&self) {
        let policies = self.policies();
        if let (Some(refused), Some(file)) = (&self.settings.refused, &self.settings.origin.file) {
            self.problems.set(Topic::LastPolicy, refused.problem(file));
        }
        if policies.is_unknown() {
            self.problems.set(
                Topic::Pending,
                "a policy awaits its confirmation that this agent does not know: what is shown of services is by the policy file; run `guard confirm` or \
                 wait, then `guard reload`"
                    .into(),
            );
        }
        drop(policies);
        self.keep_policies();
    }

    fn activate(&self, source: &Source, time: Option<Duration>) -> Result<Applied, ApplyError> {
        let live = Arc::clone(self.policies().live());
        interfaces::check_change(source, &live)?;
        self.notice_return()?;
        let policy = &source.checked.policy;
        let mut kernel = self.kernel();
        let generation = publish(&mut kernel.datapath, policy, time)?;
        let mut policies = self.policies();
        let before = policies.replace(source, generation, time.is_some());
        let mut warnings: Vec<_> = source.checked.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(needs_restart(&before, policy));
        drop(policies);
        drop(kernel);
        self.keep_policies();
        self.problems.clear(Topic::LastPolicy);
        self.problems.clear(Topic::Pending);
        (self.settings.log_level)(policy.log.level);
        self.look_after();
        warnings.iter().for_each(|warning| warn!("{warning}"));
        let confirm_within = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(Applied { generation, services: service_names(policy), warnings, confirm_within })
    }

    fn note_reload(&self, result: &Result<Applied, ApplyError>) {
        self.policies().note_refusal(result.as_ref().err().map(ToString::to_string));
        if let Err(error) = result {
            warn!("the new policy was refused, the old one stays live:\n{error}");
        }
    }
}

/// What the audit log says of an attempt.
fn outcome(result: &Result<Applied, ApplyError>) -> Result<Option<Value>, String> {
    match result {
        Ok(applied) => Ok(Some(json!({ "generation": applied.generation, "services": applied.services }))),
        Err(error) => Err(error.to_string()),
    }
}

/// What a running agent does not change.
fn needs_restart(before: &Policy, after: &Policy) -> Vec<String> {
    let changes = [
        (before.metrics.listen != after.metrics.listen, "[metrics] listen"),
        (before.log.format != after.log.format, "[log] format"),
        (before.capacity != after.capacity, "[capacity]"),
    ];
    let changed = changes.into_iter().filter_map(|(changed, key)| changed.then_some(key));
    let mode = (before.attach.mode != after.attach.mode).then(|| {
        // A link cannot change its mode, and to take it off first would be a gap.
        "[attach] mode takes effect where the program is not yet; where it is, after `guard detach`"
            .to_owned()
    });
    changed.map(|key| format!("{key} takes effect when the agent is started again")).chain(mode).collect()
}
