//! Keeping the program on the interfaces that the policy names: those that exist now, and those that come later.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use super::Kernel;
use super::blocks::event_of;
use crate::agent::status::{self, InterfaceStatus};
use crate::config::{AttachMode, Policy};
use crate::datapath::{Attachment, Mode, ModeRequest};
use crate::ledger::Action;
use crate::network;

/// Where the program is, and where it should be and is not.
#[derive(Default)]
pub(super) struct Attached {
    by_index: BTreeMap<u32, Attachment>,
    /// By the name of the interface, or what the policy says for it: why the program is not there.
    refused: BTreeMap<String, String>,
}

impl Attached {
    pub(super) fn status(&self) -> Vec<InterfaceStatus> {
        let attached = self.by_index.values().map(status::of_attachment);
        let refused = self.refused.iter().map(|(name, why)| status::of_refused(name, why));
        attached.chain(refused).collect()
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        self.by_index.keys().copied()
    }

    /// Why it is not everywhere where it should be.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.refused.values().cloned()
    }

    /// # Errors
    /// When there are interfaces to guard, and none of them could be. One that comes later will be.
    pub(super) fn require_one(&self) -> Result<()> {
        if self.by_index.is_empty() && !self.refused.is_empty() {
            bail!("{}", self.refused.values().cloned().collect::<Vec<_>>().join("; "));
        }
        Ok(())
    }

    /// Remembers why an interface is not guarded, and says it unless that was known `before`.
    fn refuse(&mut self, before: &BTreeMap<String, String>, name: &str, why: String) {
        if before.get(name) != Some(&why) {
            warn!("{why}");
        }
        self.refused.insert(name.to_owned(), why);
    }
}

impl Kernel {
    /// Puts the program where the policy wants it, and takes it off where nobody does; interfaces that `keep` names stay guarded.
    pub(super) fn attach_also(&mut self, policy: &Policy, keep: &[String]) {
        let before = std::mem::take(&mut self.attached.refused);
        let mut wanted = BTreeSet::new();
        for name in &policy.attach.interfaces {
            match network::resolve(name) {
                Ok(found) => wanted.extend(found),
                Err(missing) => self.attached.refuse(&before, name, missing.to_string()),
            }
        }
        let mut guarded = BTreeSet::new();
        for name in &wanted {
            // One that went away since it was listed is looked at again when that is noticed.
            let Ok(index) = if_nametoindex(name.as_str()) else { continue };
            guarded.insert(index);
            if let Err(why) = self.attach_one(name, index, policy.attach.mode) {
                self.attached.refuse(&before, name, why);
            }
        }
        let kept = keep.iter().filter_map(|name| network::resolve(name).ok()).flatten();
        guarded.extend(kept.filter_map(|name| if_nametoindex(name.as_str()).ok()));
        self.detach_others(&guarded);
    }

    fn attach_one(&mut self, name: &str, index: u32, mode: AttachMode) -> Result<(), String> {
        if let Some(attachment) = self.attached.by_index.get_mut(&index)
            && self.datapath.is_attached(index)
        {
            if attachment.interface != name {
                info!("interface {} is called {name} now", attachment.interface);
                name.clone_into(&mut attachment.interface);
            }
            return Ok(());
        }
        if self.attached.by_index.remove(&index).is_some() {
            warn!("the program was taken off {name} by somebody else: putting it back");
            let details = serde_json::json!({ "reason": format!("taken off {name} by somebody else") });
            self.register.record(event_of(Action::Attach, "guard", Ok(Some(details))));
        }
        let mut attachment =
            self.datapath.attach(name, requested(mode)).map_err(|error| advised(index, error.to_string()))?;
        attachment.why = attachment.why.map(|why| advised(index, why));
        announce(&attachment);
        self.attached.by_index.insert(index, attachment);
        Ok(())
    }

    /// Takes the program off all interfaces but these, and removes what is left of those that are gone.
    fn detach_others(&mut self, guarded: &BTreeSet<u32>) {
        let detached = match self.datapath.detach_others(guarded) {
            Ok(detached) => detached,
            Err(error) => {
                return warn!("an interface that is not to be guarded any longer still is: {error}");
            }
        };
        for index in detached {
            match self.attached.by_index.remove(&index) {
                Some(attachment) => {
                    info!("{} (index {index}) is not guarded any longer", attachment.interface)
                }
                None => info!("the interface with index {index} is not guarded any longer"),
            }
        }
    }
}

/// With what to do instead, where that is known.
fn advised(index: u32, why: String) -> String {
    let links = network::links().unwrap_or_default();
    let advice = links.iter().find(|link| link.index == index).and_then(|link| link.advice(&links));
    match advice {
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
