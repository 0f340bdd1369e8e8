//! Keeping the program on the interfaces that the policy asks for: those that exist now, and those that come later.
//!
//! New first, then old, and old never without new: an interface that no policy asks for any longer leaves when each that one does ask for is
//! guarded.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use tracing::{info, warn};

use super::Kernel;
use super::blocks::event_of;
use super::unguarded::unguarded;
use super::wanted::{Askers, Entries, Wanted};
use crate::agent::status::{self, InterfaceStatus, UnguardedStatus};
use crate::config::{AttachMode, Policy};
use crate::datapath::{Attachment, Error, Mode, ModeRequest};
use crate::ledger::Action;
use crate::network::{Missing, Network};

/// Where the program is, and where it should be and is not.
#[derive(Default)]
pub(super) struct Attached {
    by_index: BTreeMap<u32, Guarded>,
    /// By the name of the interface, or what the policy says for it: why the program is not there.
    refused: BTreeMap<String, String>,
    /// What the agent could not find out or do about interfaces, which changes nothing on the card.
    troubles: Vec<String>,
    unguarded: Vec<UnguardedStatus>,
    /// Whether nothing is wrong but that something may come later.
    only_awaits: bool,
    /// Devices above others whose program could not be moved below, and the devices that were there then.
    stuck: BTreeMap<u32, BTreeSet<u32>>,
}

/// An interface with the program.
struct Guarded {
    attachment: Attachment,
    askers: Askers,
    /// Why it is guarded, though the policy does not lead to it.
    stays: Option<String>,
}

impl Attached {
    pub(super) fn status(&self) -> Vec<InterfaceStatus> {
        let attached = self.by_index.values().map(|guarded| {
            let mut status = status::of_attachment(&guarded.attachment);
            let why: Vec<_> = guarded.stays.iter().chain(&status.why).cloned().collect();
            status.why = (!why.is_empty()).then(|| why.join("; "));
            status
        });
        let refused = self.refused.iter().map(|(name, why)| status::of_refused(name, why));
        attached.chain(refused).collect()
    }

    /// The interfaces that packets can reach this host by, and that have no program.
    pub(super) fn unguarded(&self) -> &[UnguardedStatus] {
        &self.unguarded
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        self.by_index.keys().copied()
    }

    /// Why it is not everywhere where it should be.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.refused.values().chain(&self.troubles).cloned()
    }

    /// # Errors
    /// When there are interfaces to guard, and none of them could be. One that may come later will be.
    pub(super) fn require_one(&self) -> Result<()> {
        if self.by_index.is_empty() && !self.only_awaits {
            bail!("{}", self.problems().collect::<Vec<_>>().join("; "));
        }
        Ok(())
    }

    fn refuse(&mut self, index: u32, error: &Error, network: &Network) {
        let why = advised(index, error.to_string(), network);
        self.refused.insert(network.name(index).to_owned(), why);
    }

    /// Why an interface of this name has no program, where guard has tried.
    pub(super) fn refusal(&self, name: &str) -> Option<&String> {
        self.refused.get(name)
    }

    pub(super) fn is_guarded(&self, index: u32) -> bool {
        self.by_index.contains_key(&index)
    }
}

/// When the program leaves the interfaces that no policy asks for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    Now,
    /// The policy is not live yet.
    Later,
}

/// What was known before a look, so that only news are logged.
struct Before {
    refused: BTreeMap<String, String>,
    troubles: Vec<String>,
}

impl Kernel {
    /// Puts the program where the policy wants it, and takes it off where no policy does any longer; what `kept` asked for stays guarded, too.
    pub(super) fn attach_also(&mut self, policy: &Policy, kept: &[String], when: Leaving) {
        let before = Before {
            refused: std::mem::take(&mut self.attached.refused),
            troubles: std::mem::take(&mut self.attached.troubles),
        };
        let entries = Entries { policy: &policy.attach.interfaces, kept };
        if let Err(unknown) = self.follow(policy, &entries, when) {
            self.attached.refused.clone_from(&before.refused);
            let trouble = format!(
                "cannot look after the interfaces: {unknown}; what is guarded stays so, and guard tries again"
            );
            self.attached.troubles.push(trouble);
        }
        for (name, why) in &self.attached.refused {
            if before.refused.get(name) != Some(why) {
                warn!("{why}");
            }
        }
        self.attached
            .troubles
            .iter()
            .filter(|trouble| !before.troubles.contains(trouble))
            .for_each(|trouble| warn!("{trouble}"));
    }

    fn follow(&mut self, policy: &Policy, entries: &Entries<'_>, when: Leaving) -> Result<(), Error> {
        // The pins first: a device that goes meanwhile is then missing in the network, and not taken for one that was never guarded.
        let pinned = self.datapath.pinned_interfaces()?;
        let network = Network::look()?;
        self.forget_the_gone(&network);
        let guarded = self.askers(&pinned, entries, &network)?;
        let wanted = Wanted::of(entries, &guarded, &network);
        for (entry, missing) in &wanted.missing {
            self.attached.refused.insert(entry.clone(), missing.to_string());
        }
        self.guard(&wanted, &guarded, policy.attach.mode, &network);
        let may_miss =
            |missing: &Missing| policy.attach.allow_missing && !matches!(missing, Missing::BadPattern { .. });
        self.attached.only_awaits = self.attached.refused.len() == wanted.missing.len()
            && wanted.missing.iter().any(|(_, missing)| missing.is_awaited() || may_miss(missing));
        let all_there = wanted.missing.iter().all(|(_, missing)| may_miss(missing))
            && !wanted.guard.is_empty()
            && wanted.guard.keys().all(|index| self.attached.is_guarded(*index));
        let leaving: BTreeSet<u32> = wanted
            .leave
            .iter()
            .chain(wanted.covered.keys())
            .copied()
            .filter(|index| guarded.contains_key(index))
            .collect();
        match (all_there, when) {
            (true, Leaving::Now) => self.leave(&leaving),
            (true, Leaving::Later) => {}
            (false, Leaving::Now | Leaving::Later) => self.stay(&leaving, policy.attach.mode, &network),
        }
        self.attached.unguarded = unguarded(&self.attached, &network);
        Ok(())
    }

    /// Forgets the interfaces that are not here any longer. Their links stay for as long as the devices exist, in whatever namespace.
    fn forget_the_gone(&mut self, network: &Network) {
        self.attached.by_index.retain(|index, guarded| {
            let is_here = network.link(*index).is_some();
            if !is_here {
                info!("{} (index {index}) is gone", guarded.attachment.interface);
            }
            is_here
        });
    }

    /// Which entries asked for each interface that has the program, by what this agent knows or the one before it has noted.
    fn askers(
        &self,
        pinned: &BTreeSet<u32>,
        entries: &Entries<'_>,
        network: &Network,
    ) -> Result<BTreeMap<u32, Askers>, Error> {
        let mut askers: BTreeMap<u32, Askers> =
            self.attached.by_index.iter().map(|(index, guarded)| (*index, guarded.askers.clone())).collect();
        for index in pinned.iter().filter(|index| network.link(**index).is_some()) {
            if askers.contains_key(index) {
                continue;
            }
            let mut known = Askers::new();
            for entry in entries.to_askers() {
                // Of what an older build left nobody knows who asked for it.
                if self.datapath.asked_for(*index, &entry)? != Some(false) {
                    known.insert(entry);
                }
            }
            askers.insert(*index, known);
        }
        Ok(askers)
    }

    fn guard(
        &mut self,
        wanted: &Wanted,
        guarded: &BTreeMap<u32, Askers>,
        mode: AttachMode,
        network: &Network,
    ) {
        for (index, askers) in &wanted.guard {
            match self.attach_one(*index, askers, mode, network) {
                // One that went away since the look is looked at again when that is noticed.
                Ok(()) | Err(Error::NoInterface(_)) => {}
                Err(error @ Error::UpperProgram { .. }) => {
                    let uppers = uppers(*index, wanted, guarded, network);
                    if !self.exchange(*index, askers, uppers, mode, network) {
                        self.attached.refuse(*index, &error, network);
                    }
                }
                Err(error) => self.attached.refuse(*index, &error, network),
            }
        }
        for (index, guarded) in &mut self.attached.by_index {
            guarded.stays = wanted.stays.get(index).cloned();
        }
    }

    /// The kernel allows no program below one that runs: takes it off the devices above, where guard needs it no longer, and puts it
    /// back if it cannot be put below. Returns whether it is below.
    fn exchange(
        &mut self,
        index: u32,
        askers: &Askers,
        uppers: BTreeMap<u32, Askers>,
        mode: AttachMode,
        network: &Network,
    ) -> bool {
        let is_stuck = |upper: &u32| self.attached.stuck.get(upper) == Some(&network.lowers(*upper));
        if uppers.is_empty() || uppers.keys().any(is_stuck) {
            return false;
        }
        let indices: BTreeSet<u32> = uppers.keys().copied().collect();
        let _shut =
            self.datapath.shut(indices.iter().map(|upper| network.name(*upper))).inspect_err(|error| {
                warn!(
                    "what arrives by {} is not judged for a moment: cannot shut the devices above: {error}",
                    network.name(index)
                );
            });
        if let Err(error) = self.datapath.let_go(&indices) {
            self.attached.troubles.push(error.to_string());
            return false;
        }
        self.attached.by_index.retain(|index, _| !indices.contains(index));
        let Err(error) = self.attach_one(index, askers, mode, network) else { return true };
        warn!("the program goes back above {}: {error}", network.name(index));
        for (upper, askers) in uppers {
            self.attached.stuck.insert(upper, network.lowers(upper));
            if let Err(error) = self.attach_one(upper, &askers, mode, network) {
                self.attached.refuse(upper, &error, network);
            }
        }
        false
    }

    /// Without `askers` an interface only stays as it is: what is known of it is not changed.
    fn attach_one(
        &mut self,
        index: u32,
        askers: &Askers,
        mode: AttachMode,
        network: &Network,
    ) -> Result<(), Error> {
        let name = network.name(index);
        if let Some(guarded) = self.attached.by_index.get_mut(&index)
            && self.datapath.is_attached(index)?
        {
            if guarded.attachment.interface != name {
                info!("interface {} is called {name} now", guarded.attachment.interface);
                name.clone_into(&mut guarded.attachment.interface);
            }
            if !askers.is_empty() && guarded.askers != *askers {
                guarded.askers.clone_from(askers);
                self.datapath.note_asked(index, askers.iter().map(String::as_str))?;
            }
            return Ok(());
        }
        if self.attached.by_index.remove(&index).is_some() {
            warn!("the program was taken off {name} by somebody else: putting it back");
            let details = serde_json::json!({ "reason": format!("taken off {name} by somebody else") });
            self.register.record(event_of(Action::Attach, "guard", Ok(Some(details))));
        }
        let mut attachment = self.datapath.attach(index, requested(mode))?;
        attachment.why = attachment.why.map(|why| advised(index, why, network));
        announce(&attachment);
        self.attached.by_index.insert(index, Guarded { attachment, askers: askers.clone(), stays: None });
        if askers.is_empty() {
            return Ok(());
        }
        self.datapath.note_asked(index, askers.iter().map(String::as_str))
    }

    /// Takes the program off interfaces that no policy asks for.
    fn leave(&mut self, leaving: &BTreeSet<u32>) {
        if leaving.is_empty() {
            return;
        }
        if let Err(error) = self.datapath.let_go(leaving) {
            self.attached
                .troubles
                .push(format!("an interface that is not to be guarded any longer still is: {error}"));
            return;
        }
        for index in leaving {
            match self.attached.by_index.remove(index) {
                Some(guarded) => {
                    info!("{} (index {index}) is not guarded any longer", guarded.attachment.interface)
                }
                None => info!("the interface with index {index} is not guarded any longer"),
            }
        }
    }

    /// Keeps the program on interfaces that would leave, were each that the policy asks for guarded.
    fn stay(&mut self, leaving: &BTreeSet<u32>, mode: AttachMode, network: &Network) {
        for index in leaving {
            let name = network.name(*index);
            if let Err(error) = self.attach_one(*index, &Askers::new(), mode, network) {
                self.attached.refuse(*index, &error, network);
            }
            let stays = format!(
                "{name} stays guarded, though the policy does not ask for it: an interface that it asks for is not guarded yet"
            );
            if let Some(guarded) = self.attached.by_index.get_mut(index) {
                guarded.stays = Some(stays.clone());
            }
            self.attached.troubles.push(stays);
        }
    }
}

/// The guarded devices above one that the program can be taken off.
fn uppers(
    index: u32,
    wanted: &Wanted,
    guarded: &BTreeMap<u32, Askers>,
    network: &Network,
) -> BTreeMap<u32, Askers> {
    let ending = wanted.leave.iter().chain(wanted.covered.keys());
    let above = ending.filter(|upper| network.all_below(**upper).contains(&index));
    above.filter_map(|upper| Some((*upper, guarded.get(upper)?.clone()))).collect()
}

/// With what to do instead, where that is known.
fn advised(index: u32, why: String, network: &Network) -> String {
    match network.link(index).and_then(|link| link.advice(&network.links)) {
        Some(advice) => format!("{why}; {advice}"),
        None => why,
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
