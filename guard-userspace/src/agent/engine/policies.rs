//! The policies that the agent knows of: the live one, the one that may come back, and the file that waits to be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tracing::{info, warn};

use super::policy::{prepare, publish};
use super::start::NotTaken;
use crate::agent::Settings;
use crate::agent::kept::{Kept, KeptPolicy};
use crate::agent::status::PolicyStatus;
use crate::blocks::Clock;
use crate::config::{Policy, Source};
use crate::datapath::pins::Pins;
use crate::datapath::{Capacities, Datapath, Error, Maps, Prepared};
use crate::network;

pub(super) struct Policies {
    live: Live,
    /// The one that comes back unless the live one is confirmed.
    before: Option<Live>,
    /// Why the last policy that was read was refused.
    refused: Option<String>,
    put_off: PutOff,
    /// Interfaces that stay guarded, since the agent does not know the policy that named them.
    unknown: Option<Vec<String>>,
    /// Counts the changes, and which of them was kept for the next agent.
    changes: u64,
    kept: Option<u64>,
}

/// Whether the policy file is to be read once no policy awaits its confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutOff {
    No,
    /// If the policy before comes back, of which the agent does not know whether it is that of the file.
    OnReturn,
    Yes,
}

/// A policy, and where it is from.
#[derive(Clone)]
struct Live {
    /// Shared with who works by it: it may have a hundred thousand prefixes.
    policy: Arc<Policy>,
    file: Option<PathBuf>,
    text: Arc<str>,
    loaded_at: SystemTime,
    generation: u64,
}

impl Policies {
    /// Makes a policy live; or, where one awaits its confirmation in the kernel, takes that state over and puts the file off.
    ///
    /// Where packets are judged by these maps already, the policy is not live yet, but prepared.
    ///
    /// # Errors
    /// With what is wrong; [`NotTaken`] where another policy may do.
    pub(super) fn begin(
        settings: &Settings,
        source: &Source,
        datapath: &mut Datapath,
    ) -> Result<(Self, Option<Prepared>)> {
        if datapath.maps().live()?.unconfirmed_for.is_some() {
            return Ok((Self::take_over(settings, source, datapath.maps())?, None));
        }
        let policy = &source.checked.policy;
        let (generation, prepared) = if datapath.is_in_use()? {
            let prepared = prepare(datapath, policy).map_err(NotTaken)?;
            (prepared.generation, Some(prepared))
        } else {
            (publish(datapath, policy, None).map_err(NotTaken)?, None)
        };
        let live = Live::new(source, generation);
        let policies = Self {
            live,
            before: None,
            refused: None,
            put_off: PutOff::No,
            unknown: None,
            changes: 0,
            kept: None,
        };
        Ok((policies, prepared))
    }

    fn take_over(settings: &Settings, source: &Source, maps: &Maps) -> Result<Self> {
        let generation = maps.live()?.generation;
        let kept = Kept::read(&settings.state).unwrap_or_else(|unknown| {
            warn!("{unknown:#}");
            None
        });
        let flags = &settings.origin.flags;
        let pending = kept.as_ref().and_then(|kept| kept.of_generation(generation));
        let pending = pending.and_then(|kept| Some((kept.source(flags).ok()?, kept.loaded_at)));
        let (before, put_off) = match kept.as_ref().filter(|_| pending.is_some()) {
            Some(kept) => match kept.live.source(flags) {
                Ok(known) if known.text == source.text && known.file == source.file => {
                    (Live::of_kept(&kept.live, &known), PutOff::No)
                }
                // The file has changed meanwhile.
                Ok(known) => (Live::of_kept(&kept.live, &known), PutOff::Yes),
                Err(_) => (Live::new(source, 0), PutOff::OnReturn),
            },
            None => (Live::new(source, 0), PutOff::OnReturn),
        };
        let unknown = pending.is_none().then(|| guarded_interfaces(&settings.pins)).transpose()?;
        let live = match pending {
            Some((source, loaded_at)) => {
                Live { loaded_at: time(loaded_at), ..Live::new(&source, generation) }
            }
            None => Live { generation, ..before.clone() },
        };
        warn!("policy generation {generation} still awaits its confirmation: `guard confirm` keeps it");
        Ok(Self { live, before: Some(before), refused: None, put_off, unknown, changes: 0, kept: None })
    }

    pub(super) const fn live(&self) -> &Arc<Policy> {
        &self.live.policy
    }

    pub(super) const fn generation(&self) -> u64 {
        self.live.generation
    }

    /// The live one, and the file that it is from.
    pub(super) fn live_and_file(&self) -> (&Policy, Option<&Path>) {
        (&self.live.policy, self.live.file.as_deref())
    }

    /// The interfaces of the policy that may come back: they stay guarded until the new one is confirmed.
    pub(super) fn kept_interfaces(&self) -> Vec<String> {
        let before = self.before.iter().flat_map(|before| before.policy.attach.interfaces.iter());
        before.chain(self.unknown.iter().flatten()).cloned().collect()
    }

    pub(super) const fn awaits_confirmation(&self) -> bool {
        self.before.is_some()
    }

    /// Whether the agent does not know the policy that is live.
    pub(super) const fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Another policy is live, for good or until it is not confirmed. Returns the one before.
    pub(super) fn replace(
        &mut self,
        source: &Source,
        generation: u64,
        awaits_confirmation: bool,
    ) -> Arc<Policy> {
        let before = std::mem::replace(&mut self.live, Live::new(source, generation));
        let policy = Arc::clone(&before.policy);
        self.before = awaits_confirmation.then_some(before);
        self.unknown = None;
        self.changes += 1;
        policy
    }

    /// The live one stays.
    pub(super) fn confirm(&mut self) {
        self.before = None;
        self.changes += 1;
        if self.put_off == PutOff::OnReturn {
            self.put_off = PutOff::No;
        }
    }

    /// The live one was not confirmed in time.
    pub(super) fn go_back(&mut self, generation: u64) {
        let Some(before) = self.before.take() else { return };
        warn!(
            "policy generation {} was not confirmed in time: generation {generation} is live again",
            self.live.generation
        );
        self.live = Live { generation, ..before };
        self.changes += 1;
        if self.put_off == PutOff::OnReturn {
            self.put_off = PutOff::Yes;
        }
    }

    pub(super) fn note_refusal(&mut self, why: Option<String>) {
        self.refused = why;
    }

    pub(super) fn put_off(&mut self) {
        self.put_off = PutOff::Yes;
    }

    /// Whether the file is to be read now; it is asked once.
    pub(super) fn take_put_off(&mut self) -> bool {
        let is_due = self.before.is_none() && self.put_off == PutOff::Yes;
        if is_due {
            self.put_off = PutOff::No;
        }
        is_due
    }

    /// What is to be kept beside the ledger, if that is not there yet, and of which change it is.
    pub(super) fn to_keep(&self, settings: &Settings) -> Option<(Kept, u64)> {
        // Where the live policy is not known, what is kept may be of use to a build that understands it.
        if self.is_unknown() || (self.kept == Some(self.changes) && Kept::is_there(&settings.state)) {
            return None;
        }
        let (live, pending) = match &self.before {
            None => (&self.live, None),
            Some(before) => (before, Some(self.live.kept())),
        };
        let kept = Kept {
            origin: settings.origin.file.clone(),
            flags: settings.origin.flags.clone(),
            boot: Clock::now().boot,
            live: live.kept(),
            pending,
        };
        Some((kept, self.changes))
    }

    pub(super) fn note_kept(&mut self, change: u64) {
        self.kept = Some(change);
    }

    pub(super) fn status(&self, maps: &Maps) -> Result<PolicyStatus> {
        let in_kernel = maps.live()?;
        Ok(PolicyStatus {
            file: self.live.file.as_ref().map(|file| file.display().to_string()),
            generation: in_kernel.generation,
            loaded_at: Some(seconds(self.live.loaded_at)),
            unconfirmed_for: in_kernel.unconfirmed_for.map(|left| left.as_secs_f64()),
            reload_error: self.refused.clone(),
            reload_put_off: self.put_off == PutOff::Yes,
        })
    }
}

impl Live {
    fn new(source: &Source, generation: u64) -> Self {
        Self {
            policy: Arc::new(source.checked.policy.clone()),
            file: source.file.clone(),
            text: source.text.as_str().into(),
            loaded_at: SystemTime::now(),
            generation,
        }
    }

    fn of_kept(kept: &KeptPolicy, source: &Source) -> Self {
        Self { loaded_at: time(kept.loaded_at), ..Self::new(source, kept.generation) }
    }

    fn kept(&self) -> KeptPolicy {
        KeptPolicy {
            generation: self.generation,
            file: self.file.clone(),
            text: self.text.to_string(),
            loaded_at: seconds(self.loaded_at),
        }
    }
}

/// The sizes for the tables: those of the policy, but while one awaits its confirmation the tables stay as they are. New ones would lose the way
/// back.
///
/// # Errors
/// When the kernel does not tell what is pinned.
pub(super) fn capacities_to_use(pins: &Pins, policy: &Policy) -> Result<Capacities, Error> {
    let pinned = match Maps::open(pins) {
        Ok(maps) => maps.live()?.unconfirmed_for.map(|_| maps.capacities()).transpose()?,
        // There are no tables of this build: they are made in any case.
        Err(Error::NotRunning { .. } | Error::OtherVersion { .. } | Error::MissingPin(_)) => None,
        Err(error) => return Err(error),
    };
    Ok(match pinned {
        Some(pinned) => {
            info!("the tables keep their sizes while a policy awaits its confirmation");
            pinned
        }
        None => super::capacities(policy),
    })
}

/// Those that a guard before this one is on.
fn guarded_interfaces(pins: &Pins) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for (index, ..) in pins.pinned_links()? {
        names.extend(network::link(index)?.map(|link| link.name));
    }
    Ok(names)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
