//! The agent's hold on the kernel.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;
use tracing::{info, warn};

use super::status::{PolicyStatus, Status};
use super::{ExplainQuery, Settings, explain, interfaces, status};
use crate::config::{AttachMode, LogLevel, OnExit, Policy};
use crate::datapath::pins::Pins;
use crate::datapath::{Attachment, Capacities, Datapath, Mode, ModeRequest, Options};
use crate::explain::Explanation;
use crate::plan;

/// The program in the kernel, the policy that it was given, and what is known of both.
pub struct Engine {
    datapath: Mutex<Datapath>,
    policy: Policy,
    file: Option<PathBuf>,
    pins: Pins,
    attachments: Vec<Attachment>,
    started: Instant,
    loaded_at: u64,
    stop: watch::Sender<bool>,
    detached: Mutex<bool>,
}

impl Engine {
    /// Loads the program, makes the policy live, then puts the program on the interfaces.
    ///
    /// # Errors
    /// With what is wrong. Whatever this call itself has put into the kernel is taken out again.
    pub fn start(settings: &Settings, stop: watch::Sender<bool>) -> Result<Self> {
        let was_there = settings.pins.exist();
        Self::try_start(settings, stop).inspect_err(|_| {
            if !was_there && let Err(error) = settings.pins.remove_all() {
                warn!("what was begun could not be taken back: {error}; `guard detach` removes it");
            }
        })
    }

    fn try_start(settings: &Settings, stop: watch::Sender<bool>) -> Result<Self> {
        let policy = &settings.policy;
        let mut wanted = Vec::new();
        for name in &policy.attach.interfaces {
            wanted.extend(interfaces::resolve(name)?);
        }
        wanted.sort();
        wanted.dedup();
        let mut datapath = Datapath::open(&Options {
            capacities: Capacities::default(),
            pins: Some(settings.pins.clone()),
            log_drops: policy.log.level == LogLevel::Debug,
            fixed_time: None,
        })?;
        let known = datapath.maps().service_names()?;
        let plan = plan::compile(policy, &known).context("the policy does not fit into the tables")?;
        let generation = datapath.maps_mut().publish(&plan)?;
        info!(
            "policy generation {generation} is live: {}",
            plan.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        let mut attachments = Vec::new();
        for interface in &wanted {
            let attachment = datapath.attach(interface, requested(policy.attach.mode))?;
            announce(&attachment);
            attachments.push(attachment);
        }
        Ok(Self {
            datapath: Mutex::new(datapath),
            policy: policy.clone(),
            file: settings.file.clone(),
            pins: settings.pins.clone(),
            attachments,
            started: Instant::now(),
            loaded_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            stop,
            detached: Mutex::new(false),
        })
    }

    /// What guard is and has counted.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn status(&self) -> Result<Status> {
        let datapath = self.datapath();
        let mut status = status::of_maps(datapath.maps())?;
        drop(datapath);
        status.pid = Some(std::process::id());
        status.uptime_seconds = Some(self.started.elapsed().as_secs());
        status.policy = PolicyStatus {
            file: self.file.as_ref().map(|file| file.display().to_string()),
            loaded_at: Some(self.loaded_at),
            ..status.policy
        };
        status.interfaces = self.attachments.iter().map(status::of_attachment).collect();
        status.services = self.policy.services.iter().map(status::of_service).collect();
        Ok(status)
    }

    /// What a packet would get now, and why.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn explain(&self, query: &ExplainQuery) -> Result<Vec<Explanation>> {
        Ok(explain(self.datapath().maps(), query)?)
    }

    /// Takes guard out of the kernel and ends the agent. Returns how many interfaces it was on.
    ///
    /// # Errors
    /// When something stays in the kernel.
    pub fn detach(&self) -> Result<usize> {
        let _datapath = self.datapath();
        let interfaces = self.pins.remove_all()?;
        *self.detached.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop();
        Ok(interfaces)
    }

    /// Ends the agent.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The end: what stays in the kernel is what the policy says.
    ///
    /// # Errors
    /// When guard was to leave the kernel and could not.
    pub fn finish(&self) -> Result<()> {
        if *self.detached.lock().unwrap_or_else(PoisonError::into_inner) {
            info!("guard has left the kernel");
            return Ok(());
        }
        match self.policy.attach.on_exit {
            OnExit::Keep => {
                info!(
                    "the agent ends; the kernel goes on to enforce the policy (on_exit = \"keep\"); `guard detach` ends that"
                );
            }
            OnExit::Detach => {
                self.pins
                    .remove_all()
                    .map_err(|error| anyhow!("guard could not leave the kernel: {error}"))?;
                info!("guard has left the kernel (on_exit = \"detach\")");
            }
        }
        Ok(())
    }

    /// A panic in another task leaves the maps as the kernel has them, so the lock is good all the same.
    fn datapath(&self) -> MutexGuard<'_, Datapath> {
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn requested(mode: AttachMode) -> ModeRequest {
    match mode {
        AttachMode::Auto => ModeRequest::Auto,
        AttachMode::Native => ModeRequest::Only(Mode::Native),
        AttachMode::Generic => ModeRequest::Only(Mode::Generic),
    }
}

fn announce(attachment: &Attachment) {
    let Attachment { interface, index, mode, multi_buffer, why, taken_over } = attachment;
    let how = if *taken_over { "took over" } else { "attached to" };
    let buffers = if *multi_buffer { "frames of any size" } else { "frames in one buffer only" };
    let mode = mode.name();
    match why {
        None => info!("{how} {interface} (index {index}), {mode} mode, {buffers}"),
        Some(why) => {
            info!("{how} {interface} (index {index}), {mode} mode, {buffers}; not better because: {why}")
        }
    }
}
