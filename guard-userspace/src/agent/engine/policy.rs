//! Making a policy live, and taking one back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Engine;
use crate::agent::status::PolicyStatus;
use crate::config::{Policy, Report, Source};
use crate::datapath::{Datapath, Maps};
use crate::ledger::Action;
use crate::network;
use crate::plan;

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

/// The policies that the agent knows of.
pub(super) struct Policies {
    live: Live,
    /// The one that comes back unless the live one is confirmed.
    before: Option<Live>,
    reload: Reload,
}

/// A policy, and where it is from.
#[derive(Clone)]
struct Live {
    /// Shared with who works by it: it may have a hundred thousand prefixes.
    policy: Arc<Policy>,
    file: Option<PathBuf>,
    loaded_at: SystemTime,
    generation: u64,
}

/// How the last attempt to read a policy went.
#[derive(Default)]
struct Reload {
    error: Option<String>,
}

impl Policies {
    pub(super) fn begin(source: &Source, generation: u64) -> Self {
        Self { live: Live::new(source, generation), before: None, reload: Reload::default() }
    }

    pub(super) const fn live(&self) -> &Arc<Policy> {
        &self.live.policy
    }

    /// The live one, and the file that it is from.
    pub(super) fn live_and_file(&self) -> (&Policy, Option<&Path>) {
        (&self.live.policy, self.live.file.as_deref())
    }

    /// The interfaces of the policy that may come back: they stay guarded until the new one is confirmed.
    pub(super) fn kept_interfaces(&self) -> Vec<String> {
        self.before.as_ref().map(|before| before.policy.attach.interfaces.clone()).unwrap_or_default()
    }

    pub(super) fn status(&self, maps: &Maps) -> Result<PolicyStatus> {
        let in_kernel = maps.live()?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(PolicyStatus {
            file: self.live.file.as_ref().map(|file| file.display().to_string()),
            generation: in_kernel.generation,
            loaded_at: Some(seconds(self.live.loaded_at)),
            unconfirmed_for: in_kernel.unconfirmed_for.map(|left| left.as_secs_f64()),
            reload_error: self.reload.error.clone(),
        })
    }
}

impl Live {
    fn new(source: &Source, generation: u64) -> Self {
        Self {
            policy: Arc::new(source.checked.policy.clone()),
            file: source.file.clone(),
            loaded_at: SystemTime::now(),
            generation,
        }
    }
}

/// Writes a policy into the kernel and makes it live, for `time` or for good. Returns its generation.
pub(super) fn publish(datapath: &mut Datapath, policy: &Policy, time: Option<Duration>) -> Result<u64> {
    let known = datapath.maps().service_names()?;
    let plan = plan::compile(policy, &known).context("the policy does not fit into the tables")?;
    let generation = match time {
        None => datapath.maps_mut().publish(&plan)?,
        Some(time) => datapath.maps_mut().publish_for(&plan, time)?,
    };
    info!("policy generation {generation} is live: {}", service_names(policy).join(", "));
    Ok(generation)
}

fn service_names(policy: &Policy) -> Vec<String> {
    policy.services.iter().map(|service| service.name.clone()).collect()
}

impl Engine {
    /// Reads the policy again from where the agent has it from, and makes it live.
    ///
    /// # Errors
    /// When it is not right, or cannot be made live.
    pub fn reload(&self, by: &str) -> Result<Applied, ApplyError> {
        let result = self
            .settings
            .origin
            .read()
            .map_err(ApplyError::from)
            .and_then(|source| self.activate(&source, None));
        self.note_reload(&result);
        self.note(Action::Reload, by, outcome(&result));
        result
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
        policies.before = None;
        let generation = policies.live.generation;
        drop(policies);
        drop(kernel);
        info!("policy generation {generation} is confirmed");
        self.note(Action::Confirm, by, Ok(Some(json!({ "generation": generation }))));
        self.look_after();
        Ok(Some(generation))
    }

    /// Notices that a policy was not confirmed in time: the packet path has gone back already.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn notice_return(&self) -> Result<()> {
        let _kernel = self.kernel();
        let in_kernel = self.maps.live()?;
        let mut policies = self.policies();
        if in_kernel.unconfirmed_for.is_some() || policies.before.is_none() {
            return Ok(());
        }
        let Some(before) = policies.before.take() else { return Ok(()) };
        warn!(
            "policy generation {} was not confirmed in time: generation {} is live again",
            policies.live.generation, before.generation
        );
        policies.live = before;
        Ok(())
    }

    fn activate(&self, source: &Source, time: Option<Duration>) -> Result<Applied, ApplyError> {
        let guarded = self.policies().live().attach.interfaces.clone();
        network::check(source, |name| guarded.iter().any(|guarded| guarded == name))?;
        self.notice_return()?;
        let policy = &source.checked.policy;
        let mut kernel = self.kernel();
        let generation = publish(&mut kernel.datapath, policy, time)?;
        let mut policies = self.policies();
        let before = std::mem::replace(&mut policies.live, Live::new(source, generation));
        let mut warnings: Vec<_> = source.checked.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(needs_restart(&before.policy, policy));
        policies.before = time.map(|_| before);
        drop(policies);
        drop(kernel);
        (self.settings.log_level)(policy.log.level);
        self.look_after();
        warnings.iter().for_each(|warning| warn!("{warning}"));
        let confirm_within = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(Applied { generation, services: service_names(policy), warnings, confirm_within })
    }

    fn note_reload(&self, result: &Result<Applied, ApplyError>) {
        self.policies().reload.error = result.as_ref().err().map(ToString::to_string);
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
        (before.metrics != after.metrics, "[metrics] listen"),
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
