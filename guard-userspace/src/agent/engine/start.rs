//! The beginning of an agent, up to the program on the cards: new first, then old, and nothing half done.
//!
//! Maps that packets are judged by already get the policy into the slot that is not live. It becomes live when the program is where the policy
//! wants it; a start that fails before has changed no verdict. A new set of maps gets its policy first, since no packet is judged by it yet.

use std::sync::Arc;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::attach::{Attached, Leaving};
use super::policies::{self, Policies};
use super::policy::service_names;
use super::{Kernel, announce};
use crate::agent::{Refused, Settings, kept};
use crate::blocks::Register;
use crate::config::Source;
use crate::datapath::{Datapath, Error, Maps, Options, Prepared};

/// The kernel does not take a policy that is right: it has no memory for its tables, or no room in them.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(super) struct NotTaken(pub(super) anyhow::Error);

/// What a start needs before anything is on a card.
pub(super) struct Begun {
    pub(super) kernel: Kernel,
    /// The maps of the kernel once more, for reading.
    pub(super) maps: Maps,
    pub(super) policies: Policies,
}

/// Loads the program or takes over the one that runs, and puts it under a policy on the interfaces.
///
/// # Errors
/// With what is wrong; [`NotTaken`] where another policy may do.
pub(super) fn begin(settings: &Settings, source: &Source) -> Result<Begun> {
    let datapath = Datapath::open(&Options {
        capacities: policies::capacities_to_use(&settings.pins, &source.checked.policy)?,
        pins: Some(settings.pins.clone()),
        fixed_time: None,
        without_notes: false,
    });
    let mut datapath = datapath.map_err(|error| {
        let needs_less = matches!(error, Error::NoRoom(_) | Error::TableFull { .. } | Error::NoMemory { .. });
        if needs_less { NotTaken(error.into()).into() } else { anyhow::Error::from(error) }
    })?;
    datapath.succession().inspect(|succession| announce(succession));
    let (policies, prepared) = Policies::begin(settings, source, &mut datapath)?;
    let register = Register::new(settings.state.clone());
    let mut kernel = Kernel { datapath, attached: Attached::default(), register, is_retired: false };
    match kernel.enter(settings, &policies, prepared) {
        Ok(maps) => Ok(Begun { kernel, maps, policies }),
        Err(error) => {
            if let Err(stays) = kernel.datapath.abandon() {
                warn!("what was begun could not be taken back: {stays}; `guard detach` removes it");
            }
            Err(error)
        }
    }
}

impl Kernel {
    fn enter(
        &mut self,
        settings: &Settings,
        policies: &Policies,
        prepared: Option<Prepared>,
    ) -> Result<Maps> {
        self.datapath.complete()?;
        // What may fail comes before the program is on an interface, or is a problem that is tried again.
        let maps = Maps::open(&settings.pins).context("cannot open the maps that were just pinned")?;
        let (policy, kept) = (Arc::clone(policies.live()), policies.kept_interfaces());
        self.attach_also(&policy, &kept, Leaving::Later);
        self.attached.require_one()?;
        if let Some(prepared) = prepared {
            self.datapath.maps_mut().switch_to(prepared)?;
            info!("policy generation {} is live: {}", prepared.generation, service_names(&policy).join(", "));
        }
        self.attach_also(&policy, &kept, Leaving::Now);
        Ok(maps)
    }
}

/// The last policy that was live, for a start whose own the kernel does not take; and what is to be told of that.
///
/// # Errors
/// With `not_taken`, if there is no other policy.
pub(super) fn last_instead(
    settings: &Settings,
    source: &Source,
    not_taken: anyhow::Error,
) -> Result<(Source, Refused)> {
    let last = match kept::last_policy(&settings.state, &settings.origin) {
        Ok(last) => last.filter(|last| last.text != source.text),
        Err(unknown) => return Err(not_taken.context(format!("{unknown:#}"))),
    };
    let Some(last) = last else { return Err(not_taken) };
    warn!(
        "the kernel does not take the policy, and the last one that was live is used instead: {not_taken:#}"
    );
    Ok((last, Refused { why: format!("{not_taken:#}"), by_kernel: true }))
}
