//! Blocking and unblocking, in the kernel first and then in the ledger: a full disk lets nobody in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use guard_common::abi;
use ipnet::IpNet;
use tracing::{info, warn};

use super::nested::{Ends, Nested};
use super::{Block, Scope, now};
use crate::datapath::{Error, Maps, monotonic_now};
use crate::ledger::{Action, Event, EventQuery, Ledger, LedgerError};

/// The blocks of this host. Addresses are looked up in the kernel; only prefixes, which depend on each other, are held in memory.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    /// None while it cannot be opened; each use tries again.
    ledger: Option<Ledger>,
    nested: Nested,
    /// Blocked addresses, and those of them with the scope `host`.
    addresses: usize,
    host_addresses: usize,
}

/// What became of a block that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Blocked {
    /// How many were not blocked before.
    pub added: usize,
    /// How many were, and stay so for as long as the longer of the two says.
    pub already: usize,
    /// Why the ledger could not be written; the blocks hold, but are lost at the next boot.
    pub not_recorded: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Kernel(#[from] Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{net} is not blocked{}", .around.map(|outer| format!("; {outer} around it is: unblock that")).unwrap_or_default())]
    NotBlocked { net: IpNet, around: Option<IpNet> },
}

/// How many entries go to the kernel between two lines in the log.
const PART: usize = 100_000;

impl Register {
    /// Reads the ledger and brings the kernel to what it says. What only the kernel knows is taken over into the ledger: a command may
    /// have blocked when no ledger could be written.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read or written. A ledger that cannot be opened is a warning.
    pub fn open(path: PathBuf, maps: &mut Maps) -> Result<Self, Error> {
        let mut register =
            Self { path, ledger: None, nested: Nested::default(), addresses: 0, host_addresses: 0 };
        let recorded =
            match register.ledger().and_then(|ledger| ledger.take_ended(now()).and_then(|_| ledger.blocks()))
            {
                Ok(blocks) => blocks,
                Err(error) => {
                    warn!("blocks are only kept by the kernel: {error}");
                    Vec::new()
                }
            };
        let in_kernel = maps.blocks()?;
        let known: HashSet<IpNet> = recorded.iter().map(|block| block.net).collect();
        let unknown: Vec<Block> =
            in_kernel.iter().filter(|(net, _)| !known.contains(net)).flat_map(found).collect();
        if !unknown.is_empty()
            && let Err(error) = register.ledger().and_then(|ledger| ledger.put_blocks(&unknown))
        {
            warn!("{} blocks of the kernel are not recorded: {error}", unknown.len());
        }
        for (net, _) in in_kernel.iter().filter(|(net, entry)| !is_live(entry) && !known.contains(net)) {
            maps.remove_block(net)?;
        }
        let addresses = || {
            in_kernel.iter().filter(|(net, entry)| is_address(net) && (is_live(entry) || known.contains(net)))
        };
        register.addresses = addresses().count();
        register.host_addresses = addresses().filter(|(_, entry)| entry.host_until != 0).count();
        // Of an address that it has, the kernel knows the end better: by a clock that nobody sets.
        let in_force: HashSet<IpNet> = in_kernel
            .iter()
            .filter(|(net, entry)| is_address(net) && is_live(entry))
            .map(|(net, _)| *net)
            .collect();
        let blocks: Vec<Block> =
            recorded.into_iter().filter(|block| !in_force.contains(&block.net)).collect();
        let blocks = [blocks, unknown.into_iter().filter(|block| !is_address(&block.net)).collect()].concat();
        let started = Instant::now();
        for (number, part) in blocks.chunks(PART).enumerate() {
            register.tell(maps, part)?;
            if started.elapsed() > Duration::from_secs(1) {
                info!("blocks: {} of {} are in the kernel", number * PART + part.len(), blocks.len());
            }
        }
        register.tell_host(maps)?;
        Ok(register)
    }

    /// Blocks, all or none as far as the kernel has room. What is blocked already stays so for the longer of the two times.
    ///
    /// # Errors
    /// When the kernel does not take it; nothing has changed then.
    pub fn block(&mut self, maps: &mut Maps, blocks: &[Block]) -> Result<Blocked, Error> {
        let added = self.tell(maps, blocks)?;
        self.tell_host(maps)?;
        let recorded = self.ledger().and_then(|ledger| {
            ledger.put_blocks(blocks)?;
            ledger.record(&noted(blocks))
        });
        let not_recorded = recorded.err().map(|error| error.to_string());
        if let Some(error) = &not_recorded {
            warn!("{} blocks hold, but are not recorded: {error}", blocks.len());
        }
        Ok(Blocked { added, already: blocks.len() - added, not_recorded })
    }

    /// Ends the blocks of these networks. Returns how many were blocked.
    ///
    /// # Errors
    /// When the only one was not blocked, or the kernel refuses.
    pub fn unblock(&mut self, maps: &mut Maps, nets: &[IpNet], by: &str) -> Result<usize, RegisterError> {
        let mut ended = Vec::new();
        for net in nets {
            if self.end(maps, net)? {
                ended.push(*net);
            }
        }
        if let ([net], []) = (nets, ended.as_slice()) {
            return Err(RegisterError::NotBlocked { net: *net, around: self.nested.around(net) });
        }
        self.tell_host(maps)?;
        let ledger = self.ledger()?;
        ledger.remove_blocks(&ended)?;
        let event = |net: &IpNet| event(Action::Unblock, Some(*net), by, None);
        ledger.record(&ended.iter().map(event).collect::<Vec<_>>())?;
        Ok(ended.len())
    }

    /// Removes what has come to its end. The kernel has not held to it since.
    ///
    /// # Errors
    /// When the ledger or the kernel's tables cannot be read or written.
    pub fn sweep(&mut self, maps: &mut Maps) -> Result<usize, RegisterError> {
        let ended = self.ledger()?.take_ended(now())?;
        for block in &ended {
            let others = self.ledger()?.blocks_of(&block.net)?;
            if others.is_empty() {
                self.end(maps, &block.net)?;
            }
        }
        if !ended.is_empty() {
            self.tell_host(maps)?;
            let events: Vec<_> =
                ended.iter().map(|block| event(Action::Expire, Some(block.net), "guard", None)).collect();
            self.ledger()?.record(&events)?;
        }
        Ok(ended.len())
    }

    /// The blocks with what each has dropped, those that have ended left out.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn list(&mut self, maps: &Maps) -> Result<Vec<(Block, u64)>, RegisterError> {
        let at = now();
        let blocks = self.ledger()?.blocks()?;
        let live = blocks.into_iter().filter(|block| block.until.is_none_or(|until| until > at));
        let entries: HashMap<IpNet, abi::Block> = maps.blocks()?.into_iter().collect();
        let dropped = |block: &Block| entries.get(&block.net).map_or(0, |entry| entry.dropped);
        let with_dropped = |block: Block| {
            let dropped = dropped(&block);
            (block, dropped)
        };
        Ok(live.map(with_dropped).collect())
    }

    /// Adds to the audit log; a failure is a warning.
    pub fn record(&mut self, event: Event) {
        if let Err(error) = self.ledger().and_then(|ledger| ledger.record(std::slice::from_ref(&event))) {
            warn!("not in the audit log: {event:?}: {error}");
        }
    }

    /// # Errors
    /// When the ledger cannot be read.
    pub fn events(&mut self, query: &EventQuery) -> Result<Vec<Event>, LedgerError> {
        self.ledger()?.events(query)
    }

    /// Blocked addresses and prefixes.
    pub fn counts(&self) -> (usize, usize) {
        (self.addresses, self.nested.len())
    }

    /// The ledger, opened if it was not.
    fn ledger(&mut self) -> Result<&mut Ledger, LedgerError> {
        match &mut self.ledger {
            Some(_) => {}
            none @ None => {
                let ledger = Ledger::open(&self.path)?;
                if let Some(aside) = ledger.moved_aside() {
                    warn!(
                        "the ledger {} could not be read and is now {}",
                        self.path.display(),
                        aside.display()
                    );
                }
                *none = Some(ledger);
            }
        }
        self.ledger.as_mut().ok_or_else(|| LedgerError::Content("no ledger".into()))
    }

    /// Tells the kernel of blocks, beside what it has of them. Returns how many were not there before.
    fn tell(&mut self, maps: &mut Maps, blocks: &[Block]) -> Result<usize, Error> {
        let mut entries: BTreeMap<IpNet, abi::Block> = BTreeMap::new();
        // What was there, to be put back if the kernel has no room.
        let mut before: Vec<(IpNet, Option<abi::Block>)> = Vec::new();
        let mut nested_before: Vec<(IpNet, Ends)> = Vec::new();
        let prefixes = if blocks.iter().all(|block| is_address(&block.net)) {
            HashMap::new()
        } else {
            maps.block_prefixes()?.into_iter().collect()
        };
        let (mut added, mut addresses, mut host_addresses) = (0, 0, 0);
        for block in blocks {
            let ends = ends(block);
            if is_address(&block.net) {
                let known = match entries.get(&block.net) {
                    Some(entry) => Some(*entry),
                    None => {
                        let known = maps.block(&block.net)?;
                        before.push((block.net, known));
                        known
                    }
                };
                added += usize::from(known.is_none_or(|known| !is_live(&known)));
                addresses += usize::from(known.is_none());
                let has_host = known.is_some_and(|known| known.host_until != 0);
                host_addresses += usize::from(block.scope == Scope::Host && !has_host);
                let ends = ends.max(known.map(of_entry).unwrap_or_default());
                entries.insert(block.net, entry(ends, known.map_or(0, |known| known.dropped)));
            } else {
                let known = self.nested.get(&block.net);
                added += usize::from(known.services <= monotonic_now());
                nested_before.push((block.net, known));
                for (net, told) in self.nested.set(block.net, ends.max(known)) {
                    let known = prefixes.get(&net).copied();
                    before.push((net, known));
                    entries
                        .extend(told.map(|ends| (net, entry(ends, known.map_or(0, |known| known.dropped)))));
                }
            }
        }
        if let Err(error) = maps.write_blocks(&entries.into_iter().collect::<Vec<_>>()) {
            for (net, ends) in nested_before.into_iter().rev() {
                self.nested.set(net, ends);
            }
            put_back(maps, before);
            return Err(error);
        }
        self.addresses += addresses;
        self.host_addresses += host_addresses;
        Ok(added)
    }

    /// Tells the kernel whether any block concerns the whole host: while none does, other ports are not looked up.
    fn tell_host(&self, maps: &mut Maps) -> Result<(), Error> {
        let prefixes = self.nested.iter().filter(|(_, ends)| ends.host != 0).count();
        maps.set_host_blocks((self.host_addresses + prefixes) as u64)
    }

    /// Takes one network out of the kernel. Returns whether it was blocked until now.
    fn end(&mut self, maps: &mut Maps, net: &IpNet) -> Result<bool, Error> {
        if is_address(net) {
            let Some(entry) = maps.block(net)? else { return Ok(false) };
            self.addresses -= 1;
            self.host_addresses -= usize::from(entry.host_until != 0);
            return Ok(maps.remove_block(net)? && is_live(&entry));
        }
        let was = self.nested.get(net).services > monotonic_now();
        for (net, told) in self.nested.set(*net, Ends::default()) {
            match told {
                Some(ends) => {
                    let dropped = maps.block(&net)?.map_or(0, |entry| entry.dropped);
                    maps.write_blocks(&[(net, entry(ends, dropped))])?;
                }
                None => drop(maps.remove_block(&net)?),
            }
        }
        Ok(was)
    }
}

fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// As it was before a write that the kernel broke off.
fn put_back(maps: &mut Maps, before: Vec<(IpNet, Option<abi::Block>)>) {
    for (net, known) in before.into_iter().rev() {
        let result = match known {
            Some(known) => maps.write_blocks(&[(net, known)]),
            None => maps.remove_block(&net).map(drop),
        };
        if let Err(error) = result {
            warn!("the block of {net} is not as it was: {error}");
        }
    }
}

fn is_live(entry: &abi::Block) -> bool {
    entry.services_until > monotonic_now()
}

const fn entry(ends: Ends, dropped: u64) -> abi::Block {
    abi::Block { host_until: ends.host, services_until: ends.services, dropped }
}

const fn of_entry(entry: abi::Block) -> Ends {
    Ends { host: entry.host_until, services: entry.services_until }
}

/// The ends of a block by the kernel's clock.
fn ends(block: &Block) -> Ends {
    let until = block.until.map_or(u64::MAX, |until| to_monotonic(until, now(), monotonic_now()));
    match block.scope {
        Scope::Host => Ends { host: until, services: until },
        Scope::Services => Ends { host: 0, services: until },
    }
}

/// A time of the wall clock (milliseconds) by the kernel's clock (nanoseconds), where both are known of the same moment. The past is 1,
/// since 0 means that there is no block.
fn to_monotonic(time: u64, wall_now: u64, monotonic_now: u64) -> u64 {
    const NANOS: u64 = 1_000_000;
    let time = if time >= wall_now {
        monotonic_now.saturating_add((time - wall_now).saturating_mul(NANOS))
    } else {
        monotonic_now.saturating_sub((wall_now - time).saturating_mul(NANOS))
    };
    // The largest number means forever.
    time.clamp(1, u64::MAX - 1)
}

/// The blocks that an entry of the kernel stands for, when nothing else is known of it.
fn found((net, entry): &(IpNet, abi::Block)) -> Vec<Block> {
    let (at, kernel_now) = (now(), monotonic_now());
    let block = |scope, until: u64| Block {
        net: *net,
        scope,
        origin: super::Origin::Manual,
        reason: Some("found in the kernel".into()),
        evidence: None,
        by: "unknown".into(),
        since: at,
        until: (until != u64::MAX).then(|| at + until.saturating_sub(kernel_now) / 1_000_000),
    };
    let host = (entry.host_until > kernel_now).then(|| block(Scope::Host, entry.host_until));
    let services = entry.services_until > kernel_now.max(entry.host_until);
    let services = services.then(|| block(Scope::Services, entry.services_until));
    host.into_iter().chain(services).collect()
}

/// What the audit log says of blocks: each, or of a long list how many; each is in the ledger all the same.
fn noted(blocks: &[Block]) -> Vec<Event> {
    const EACH: usize = 1000;
    match blocks {
        [first, .., last] if blocks.len() > EACH => {
            let details = serde_json::json!({ "blocks": blocks.len(), "from": first.net, "to": last.net, "reason": first.reason });
            vec![event(Action::Block, None, &first.by, Some(details))]
        }
        _ => blocks.iter().map(blocked).collect(),
    }
}

fn blocked(block: &Block) -> Event {
    let details = serde_json::json!({
        "scope": block.scope, "origin": block.origin, "reason": block.reason, "until": block.until, "evidence": block.evidence,
    });
    event(Action::Block, Some(block.net), &block.by, Some(details))
}

/// Something that was done just now.
pub(super) fn event(
    action: Action,
    net: Option<IpNet>,
    by: &str,
    details: Option<serde_json::Value>,
) -> Event {
    Event { at: now(), action, net, by: by.into(), outcome: "done".into(), details }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_time_becomes_a_kernel_time() {
        let cases = [
            (1_000, 1_000, 5_000_000_000, 5_000_000_000),
            (61_000, 1_000, 5_000_000_000, 65_000_000_000),
            (0, 1_000, 5_000_000_000, 4_000_000_000),
            (0, 10_000, 5_000_000_000, 1),
            (u64::MAX, 0, 5, u64::MAX - 1),
        ];
        for (time, wall, kernel, expected) in cases {
            assert_eq!(to_monotonic(time, wall, kernel), expected, "{time} at {wall}");
        }
    }
}
