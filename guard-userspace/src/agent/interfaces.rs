//! Whether the interfaces of a policy are there, asked before anything in the kernel is changed.

use anyhow::Result;

use crate::config::{Policy, Source};
use crate::datapath::Error;
use crate::datapath::pins::Pins;
use crate::network::{self, Missing, Network, resolve};

/// Refuses a start that could guard nothing. What is missing beside others that are there is a problem of the running agent.
///
/// # Errors
/// When no interface that the policy asks for is there, unless it may come later.
pub(super) fn check_start(source: &Source, pins: &Pins) -> Result<()> {
    let attach = &source.checked.policy.attach;
    let network = Network::look()?;
    let mut may_come = attach.allow_missing;
    for entry in &attach.interfaces {
        match resolve(entry, &network) {
            Ok(_) => return Ok(()),
            Err(missing) => may_come |= missing.is_awaited(),
        }
    }
    if may_come || was_asked_for(&attach.interfaces, pins, &network)? {
        return Ok(());
    }
    network::check(source, &network, |_, _| false)
}

/// Whether an interface is guarded because of one of these entries, under another name by now.
fn was_asked_for(entries: &[String], pins: &Pins, network: &Network) -> Result<bool, Error> {
    for (index, ..) in pins.pinned_links()? {
        for entry in entries {
            if network.link(index).is_some() && pins.asked_for(index, entry)? != Some(false) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Refuses a policy that asks for what is not there. What the `live` one asks for, too, was there once.
///
/// # Errors
/// With the first entry that stands for no interface.
pub(super) fn check_change(source: &Source, live: &Policy) -> Result<()> {
    let may_miss = |entry: &str, missing: &Missing| {
        let was_there = live.attach.interfaces.iter().any(|known| known == entry);
        was_there
            || (source.checked.policy.attach.allow_missing && !matches!(missing, Missing::BadPattern { .. }))
    };
    network::check(source, &Network::look()?, may_miss)
}
