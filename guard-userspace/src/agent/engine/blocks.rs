//! Blocks, as they are asked for over the control socket.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

use super::evidence::Proven;
use super::{Engine, lock};
use crate::agent::Peer;
use crate::blocks::{self, Block, Origin, Protected, Register, RegisterError, Unblocked};
use crate::control::{BlockAnswer, BlockRequest, BlockStatus, Skipped};
use crate::drops::Dropped;
use crate::events::{EntryQuery, Page};
use crate::ledger::{Action, Event, EventQuery};
use crate::plain::plain;

impl Engine {
    /// Blocks all that is asked for, or nothing of it.
    ///
    /// # Errors
    /// When somebody would be hit who must not be, or the kernel has no room.
    pub fn block(&self, request: &BlockRequest, peer: &Peer) -> Result<BlockAnswer> {
        let room = self.policies().live().capacity.blocks;
        ensure!(
            u32::try_from(request.nets.len()).is_ok_and(|length| length <= room),
            "a list of {} does not fit: there is room for {room} blocks; raise blocks in [capacity] of the policy, or block fewer",
            request.nets.len()
        );
        let trusted: Vec<IpNet> = self.policies().live().trusted.iter().map(|prefix| prefix.net).collect();
        let Admitted { nets, skipped } = admit(request, trusted)?;
        let by = peer.to_string();
        let blocks = blocks_of(request, &nets, &by);
        let mut kernel = self.kernel();
        let parts = &mut *kernel;
        let blocked = parts.register.block(parts.datapath.maps_mut(), blocks)?;
        self.count_blocks(&kernel.register);
        drop(kernel);
        let killed = request.kill.then(|| self.kill_and_note(&nets, request.scope, &by));
        let (killed, not_killed) = killed.unwrap_or_default();
        Ok(BlockAnswer { blocked, killed, not_killed, skipped })
    }

    /// Ends blocks.
    ///
    /// # Errors
    /// When the only one was not blocked, or the kernel refuses.
    pub fn unblock(&self, nets: &[IpNet], peer: &Peer) -> Result<Unblocked, RegisterError> {
        let nets = nets.iter().map(IpNet::trunc).collect::<Vec<_>>();
        let mut kernel = self.kernel();
        let parts = &mut *kernel;
        let mut proven = None;
        let open = |net: &IpNet| {
            // What cannot be read is not pardoned.
            let proven = proven.get_or_insert_with(|| Proven::read(&self.maps).ok());
            proven.as_ref().map(|proven| self.open_within(proven, net)).unwrap_or_default()
        };
        let unblocked = parts.register.unblock(parts.datapath.maps_mut(), &nets, &peer.to_string(), open);
        self.count_blocks(&kernel.register);
        unblocked
    }

    pub(super) fn count_blocks(&self, register: &Register) {
        *lock(&self.block_counts) = register.counts();
    }

    /// # Errors
    /// When the ledger or the maps cannot be read.
    pub fn blocks(&self) -> Result<Vec<BlockStatus>> {
        let mut kernel = self.kernel();
        Ok(kernel.register.list(&self.maps)?.into_iter().map(BlockStatus::from).collect())
    }

    /// The blocks of an address and of prefixes around it, the one that decides first.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub(super) fn blocks_around(&self, address: IpAddr) -> Result<Vec<BlockStatus>> {
        let blocks = self.kernel().register.around(&self.maps, address)?;
        Ok(blocks.into_iter().map(BlockStatus::from).collect())
    }

    /// Writes into the audit log that something was done or refused, by whom.
    pub fn note(&self, action: Action, by: &str, outcome: Result<Option<Value>, String>) {
        self.kernel().register.record(event_of(action, by, outcome));
    }

    /// What was done and what was dropped.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn events(&self, query: &EntryQuery) -> Result<Page> {
        let EntryQuery { source, last, after_action, from_drop, wait: _ } = *query;
        let mut kernel = self.kernel();
        // Read first: what comes in between is shown twice rather than never, and by its number only once.
        let newest = kernel.register.newest_event()?;
        let actions = kernel.register.events(&EventQuery { source, last, after: after_action })?;
        drop(kernel);
        let next_action = actions.iter().filter_map(|event| event.id).fold(newest, i64::max);
        let drops = lock(&self.drops);
        let wanted = |dropped: &&Dropped| source.is_none_or(|source| dropped.source == source);
        let mut found: Vec<Dropped> = drops.since(from_drop.unwrap_or(0)).filter(wanted).cloned().collect();
        found.drain(..found.len() - last.unwrap_or(usize::MAX).min(found.len()));
        Ok(Page::new(actions, found, last, next_action, drops.next()))
    }
}

pub(super) fn event_of(action: Action, by: &str, outcome: Result<Option<Value>, String>) -> Event {
    let (outcome, details) = match outcome {
        Ok(details) => ("done".into(), details),
        Err(why) => (why, None),
    };
    Event { id: None, at: blocks::now(), action, net: None, by: by.into(), outcome, details }
}

/// What is blocked of a request, and what is left out.
pub struct Admitted {
    pub nets: Vec<IpNet>,
    pub skipped: Vec<Skipped>,
}

/// Sees to it that nobody is hit who must not be: all of the request, or with `skip_protected` what may be blocked of it.
///
/// # Errors
/// With whom it would hit, and why not.
pub fn admit(request: &BlockRequest, trusted: Vec<IpNet>) -> Result<Admitted> {
    let longest = u64::try_from(blocks::LONGEST.as_millis()).unwrap_or(u64::MAX);
    ensure!(
        request.lasts.is_none_or(|time| time <= longest),
        "no block with an end lasts for more than ten years: leave the time out"
    );
    for net in &request.nets {
        // Not even by force: it would stop nobody.
        if let Some(meant) = blocks::protected::mapped(net) {
            bail!("{net} is not blocked: no packet of IPv6 may come from there; write {meant}");
        }
    }
    if request.force {
        return Ok(Admitted { nets: request.nets.clone(), skipped: Vec::new() });
    }
    let mut protected = Protected::of_host();
    protected.add_nets(trusted, "trusted by the policy");
    protected.add(request.caller, "where you are logged in from");
    let (mut nets, mut skipped) = (Vec::new(), Vec::new());
    for net in &request.nets {
        match protected.check(net) {
            Ok(()) => nets.push(*net),
            Err(_) if request.skip_protected => {
                let why = protected.why(net).unwrap_or_default();
                skipped.push(Skipped { net: *net, why });
            }
            Err(refusal) if request.nets.len() > 1 => {
                return Err(refusal)
                    .context("nothing of the list was blocked; --skip-protected blocks the rest of it");
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    ensure!(!nets.is_empty() || skipped.is_empty(), "nothing was blocked: all of it is protected");
    Ok(Admitted { nets, skipped })
}

/// Characters of a reason. Each block of a list keeps its own copy.
const LONGEST_REASON: usize = 1000;

/// The blocks that a request asks for.
pub fn blocks_of(request: &BlockRequest, nets: &[IpNet], by: &str) -> Vec<Block> {
    let since = blocks::now();
    let until = request.lasts.map(|time| since.saturating_add(time));
    let reason: Option<String> =
        request.reason.as_ref().map(|reason| plain(reason).chars().take(LONGEST_REASON).collect());
    let block = |net: &IpNet| Block {
        net: net.trunc(),
        scope: request.scope,
        origin: Origin::Manual,
        reason: reason.clone(),
        evidence: None,
        by: by.into(),
        since,
        until,
    };
    nets.iter().map(block).collect()
}
