//! The connections of clients: the count in the kernel held against the sockets that exist, shown, and ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;

use anyhow::Result;
use guard_common::abi::{Correction, FlowKey, Marks, OpenCount, ServiceId, SourceKey, Surplus, Tracked};
use ipnet::IpNet;
use tracing::{info, warn};

use super::{Engine, lock};
use crate::agent::MapStatus;
use crate::agent::problems::Topic;
use crate::blocks::Scope;
use crate::config::{Policy, Protocol, Service};
use crate::connections::{self, Others, Reconciler, Repair, Room, Seen, SourceConnections, Totals};
use crate::datapath::CLIENTS_TABLE;
use crate::limited::{self, Kind};
use crate::network::Routes;
use crate::sockets::{Connection, Killed, Listing, Note, Ports, Sockets, State};

/// So many sources are added up for each scrape: about 0.2 ms.
const FEW: u64 = 2048;

/// What is needed to look at the sockets, and what was found at the last look.
#[derive(Debug)]
pub(super) struct Watch {
    sockets: Sockets,
    reconciler: Reconciler,
    notes: Vec<Note>,
}

impl Watch {
    fn begin() -> Result<Self> {
        Ok(Self { sockets: Sockets::new()?, reconciler: Reconciler::default(), notes: Vec::new() })
    }

    /// Leaves alone what exists, though nobody knows any longer to which port its client came: conntrack forgets a connection that is
    /// silent for long. What a new policy leaves to other destinations goes.
    fn spare_existing(
        &mut self,
        repair: &mut Repair,
        tracked: &HashMap<u64, Tracked>,
        ports: &Ports,
    ) -> Result<()> {
        let closed = |correction: &Correction| match correction {
            Correction::Close { cookie } => tracked.get(cookie).map(|tracked| tracked.namespace.into()),
            Correction::Open { .. } | Correction::Add { .. } | Correction::Mark { .. } => None,
        };
        let namespaces: BTreeSet<u64> = repair.corrections.iter().filter_map(closed).collect();
        if namespaces.is_empty() {
            return Ok(());
        }
        let listing = self.sockets.list_all(&namespaces)?;
        let theirs = listing.connections.iter().filter(|existing| !existing.is_elsewhere(ports));
        let existing: HashSet<u64> = theirs.map(|existing| existing.cookie).collect();
        let is_complete = others(&listing.notes) != Others::Unread;
        repair.spare(|cookie| !is_complete || existing.contains(&cookie));
        Ok(())
    }
}

impl Engine {
    /// Holds the count against the sockets, corrects it, and looks who has too many. What hinders it is a problem: new connections are
    /// counted all the same.
    pub fn compare_connections(&self) {
        let failed = self.reconcile().map(|open| self.look_for_offenders(&open)).err();
        let failed = failed.map(|error| {
            format!("the connections that are open cannot be compared with their sockets: {error:#}")
        });
        let mut known = lock(&self.not_compared);
        if let Some(failed) = &failed
            && known.as_ref() != Some(failed)
        {
            warn!("{failed}");
        }
        *known = failed;
    }

    /// Returns how many connections each source has then.
    fn reconcile(&self) -> Result<Vec<(SourceKey, u64)>> {
        let ports = self.guarded_ports();
        let interfaces = self.kernel().attached.indices().collect();
        let mut held = lock(&self.watch);
        let watch = begun(&mut held, Watch::begin)?;
        let counts: HashMap<SourceKey, OpenCount> = self.maps.open_counts()?.into_iter().collect();
        let tracked: HashMap<u64, Tracked> = self.maps.tracked()?.into_iter().collect();
        let counts_after = self.maps.open_counts()?;
        let open: Vec<_> = counts_after.iter().map(|(source, count)| (*source, count.open())).collect();
        let counts_after = counts_after.into_iter().collect();
        let totals = connections::totals(open.iter().copied());
        let counted = connections::counted(&self.maps, tracked.clone());
        // Details cost the kernel some more for each socket.
        let is_any_closed = tracked.values().any(|tracked| !tracked.marks.counts());
        let listing = if is_any_closed {
            watch.sockets.list_with_details(&ports, &counted)?
        } else {
            watch.sockets.list(&ports, &counted)?
        };
        let acknowledged = acknowledged(&listing, &tracked);
        let mut sockets = self.tracked_of(&listing, &tracked);
        let (connections, sources) = self.maps.room_for_connections()?;
        let room = Room { connections: connections as usize, sources: sources as usize };
        leave_out_strangers(&mut sockets, &tracked, &interfaces)?;
        let namespaces = listing.namespaces.iter().map(|inode| inode_number(*inode)).collect();
        let others = others(&listing.notes);
        let seen = Seen { counts, tracked, counts_after, sockets, acknowledged, room, namespaces, others };
        let mut repair = watch.reconciler.compare(&seen);
        watch.spare_existing(&mut repair, &seen.tracked, &ports)?;
        if watch.notes != listing.notes {
            listing.notes.iter().for_each(|note| info!("{note}"));
            watch.notes = listing.notes;
        }
        let reach = watch.sockets.reach(ports.numbers());
        drop(held);
        // What cannot be asked is unknown: what was known stays.
        if let Ok(reach) = reach {
            self.note_reach(&reach);
        }
        *lock(&self.connection_totals) = totals;
        if repair.drift > 0 {
            limited::warn(Kind::Corrected, || {
                format!("{} connections were counted wrongly, and are counted right now", repair.drift)
            });
            self.drift.fetch_add(repair.drift, Ordering::Relaxed);
        }
        let mut kernel = self.kernel();
        for correction in &repair.corrections {
            kernel.datapath.correct(correction)?;
        }
        for source in repair.idle {
            kernel.datapath.forget_source(source)?;
        }
        drop(kernel);
        self.note_room(repair.without_room, connections);
        if repair.corrections.is_empty() { Ok(open) } else { Ok(self.maps.connections()?) }
    }

    /// What each source has open, the one with most first.
    ///
    /// # Errors
    /// When the sockets or the maps cannot be read.
    pub fn connections(&self) -> Result<Vec<SourceConnections>> {
        let ports = self.guarded_ports();
        let counted = connections::counted(&self.maps, self.maps.tracked()?);
        let mut held = lock(&self.watch);
        let listing = begun(&mut held, Watch::begin)?.sockets.list_with_forgotten(&ports, &counted)?;
        drop(held);
        Ok(connections::by_source(&self.maps, &listing)?)
    }

    /// What each service has open. To add up few sources is cheap; of more than that, it is what the last comparison has found, so that a
    /// scrape costs the same however many there are. `maps` says how many that is.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub(super) fn connection_totals(&self, maps: &[MapStatus]) -> Result<BTreeMap<ServiceId, Totals>> {
        let table = maps.iter().find(|map| map.map == CLIENTS_TABLE);
        if table.is_some_and(|table| table.entries <= FEW) {
            return Ok(connections::totals(self.maps.connections()?));
        }
        Ok(lock(&self.connection_totals).clone())
    }

    /// Ends the connections of these networks, to guarded ports or all of them.
    ///
    /// # Errors
    /// When the sockets cannot be listed.
    pub(super) fn kill(&self, nets: &[IpNet], scope: Scope) -> Result<Killed> {
        let guarded = self.guarded_ports();
        let ports = match scope {
            Scope::Host => None,
            Scope::Services => Some(&guarded),
        };
        let counted = connections::counted(&self.maps, self.maps.tracked()?);
        let mut killer = lock(&self.killer);
        let killed = begun(&mut killer, Sockets::new)?.kill(nets, ports, &counted)?;
        drop(killer);
        self.count_killed(&killed);
        Ok(killed)
    }

    /// Ends connections that their sources opened past `max_connections`: handshakes that are under way at the same time are let through all
    /// together. Where a source has closed others since, as many stay.
    pub fn take_surplus(&self, opened: &[Surplus]) {
        let mut by_source: HashMap<SourceKey, (u64, Vec<u64>)> = HashMap::new();
        let mut cookies = HashSet::new();
        let mut tracked = HashMap::new();
        for Surplus { cookie, no_room } in opened {
            if *no_room != 0 {
                cookies.insert(*cookie);
                continue;
            }
            // One that has ended since is not there any longer.
            let Some(of) = self.maps.tracked_by(*cookie) else { continue };
            tracked.insert(*cookie, of);
            let Tracked { source, flow, marks, .. } = of;
            // What the client has closed is not held against it.
            if !marks.counts() {
                continue;
            }
            let most = self.maps.most_connections(source.service(), flow.address());
            if most != 0 {
                by_source.entry(source).or_insert((most, Vec::new())).1.push(*cookie);
            }
        }
        for (source, (most, opened)) in by_source {
            let over = self.maps.connections_of(&source).saturating_sub(most);
            cookies.extend(opened.iter().rev().take(usize::try_from(over).unwrap_or(usize::MAX)));
        }
        if cookies.is_empty() {
            return;
        }
        let ports = self.guarded_ports();
        let counted = connections::counted(&self.maps, tracked);
        let mut killer = lock(&self.killer);
        let killed = begun(&mut killer, Sockets::new)
            .and_then(|sockets| sockets.kill_these(&cookies, &ports, &counted));
        drop(killer);
        match killed {
            Ok(killed) => {
                self.count_killed(&killed);
                if killed.sockets > 0 {
                    let closed = killed.sockets;
                    limited::info(Kind::Surplus, || {
                        format!("{closed} connections over max_connections were closed")
                    });
                }
            }
            Err(error) => {
                limited::warn(Kind::NotSurplus, || format!("connections over max_connections go on: {error}"))
            }
        }
    }

    fn count_killed(&self, killed: &Killed) {
        self.killed.fetch_add(killed.sockets as u64, Ordering::Relaxed);
        for note in &killed.notes {
            limited::warn(Kind::GoOn, || note.to_string());
        }
        if let Some(left) = killed.left() {
            limited::warn(Kind::GoOn, || left);
        }
    }

    /// The TCP ports of the live policy, at the destinations of their services.
    fn guarded_ports(&self) -> Ports {
        let mut ports = Ports::default();
        for service in tcp_services(self.policies().live()) {
            let destinations: Vec<IpNet> = service.destinations.iter().map(|prefix| prefix.net).collect();
            ports.add(service.ports.iter().cloned().flatten(), &destinations);
        }
        ports
    }

    /// The connections that were established, as the kernel's program would count them.
    ///
    /// Sockets in several namespaces can have the same two ends, if the owners of these namespaces like: such a connection counts once.
    fn tracked_of(&self, listing: &Listing, known: &HashMap<u64, Tracked>) -> HashMap<u64, Tracked> {
        let mut by_ends: HashMap<_, &Connection> = HashMap::new();
        let was_open = |connection: &&Connection| connection.state != State::HalfOpen;
        for connection in listing.connections.iter().filter(was_open) {
            let Connection { client, asked, local, cookie, .. } = connection;
            let ends = (*client, asked.port(), *local);
            let rank = |cookie: u64| (!known.contains_key(&cookie), cookie);
            let chosen = by_ends.entry(ends).or_insert(connection);
            if rank(*cookie) < rank(chosen.cookie) {
                *chosen = connection;
            }
        }
        let tracked = |connection: &Connection| {
            let Connection { client, asked, cookie, namespace, state, .. } = connection;
            let source = self.maps.source_of(client.ip(), asked.port())?;
            let flow = FlowKey::new(client.ip().into(), client.port(), source.service());
            let marks = match state {
                State::ClosedByPeer => Marks(Marks::FOUND | Marks::CLOSED_BY_CLIENT),
                State::HalfOpen | State::Established | State::Closing => Marks(Marks::FOUND),
            };
            Some((*cookie, Tracked { source, flow, namespace: inode_number(*namespace), marks }))
        };
        by_ends.into_values().filter_map(tracked).collect()
    }

    /// Notes how many connections the tables have no room for.
    fn note_room(&self, without_room: u64, room: u32) {
        if without_room == 0 {
            self.problems.clear(Topic::NoRoom);
            return;
        }
        let problem = format!(
            "the tables have room for {room} connections, and {without_room} more are open and not counted; raise connections \
             in [capacity] and start the agent again"
        );
        self.problems.set(Topic::NoRoom, problem);
    }
}

/// What clients have acknowledged that have closed their end of a connection.
fn acknowledged(listing: &Listing, tracked: &HashMap<u64, Tracked>) -> HashMap<u64, u64> {
    let is_closed = |cookie: &u64| tracked.get(cookie).is_some_and(|tracked| !tracked.marks.counts());
    let closed = listing.connections.iter().filter(|connection| is_closed(&connection.cookie));
    closed.filter_map(|connection| Some((connection.cookie, connection.acknowledged?))).collect()
}

/// What is made at its first use: what hinders it then is tried again at the next.
fn begun<T, E>(slot: &mut Option<T>, begin: impl FnOnce() -> Result<T, E>) -> Result<&mut T, E> {
    match slot {
        Some(begun) => Ok(begun),
        None => Ok(slot.insert(begin()?)),
    }
}

/// Leaves out connections that did not come through guard: those of the host to itself, those of containers. Of those that are counted it is
/// known; of others it follows from where their answers go.
fn leave_out_strangers(
    sockets: &mut HashMap<u64, Tracked>,
    tracked: &HashMap<u64, Tracked>,
    interfaces: &BTreeSet<u32>,
) -> Result<()> {
    if sockets.keys().all(|cookie| tracked.contains_key(cookie)) {
        return Ok(());
    }
    let mut routes = Routes::open()?;
    sockets.retain(|cookie, socket| {
        tracked.contains_key(cookie) || routes.lead_over(socket.flow.address().into(), interfaces)
    });
    Ok(())
}

/// What is known of the namespaces that a look has not found that left these notes.
fn others(notes: &[Note]) -> Others {
    let of = |note: &Note| match note {
        Note::HiddenProcesses { .. } => Others::Hidden,
        Note::NotEntered { .. } | Note::NotListed { .. } => Others::Unread,
        // Where connections are counted is looked at in any case.
        Note::NotVisited { .. } | Note::NoTranslations { .. } | Note::NoMultipath => Others::Gone,
    };
    notes.iter().map(of).max().unwrap_or_default()
}

/// The kernel's numbers of namespaces have 32 bits (`struct ns_common`); files could have longer ones.
fn inode_number(inode: u64) -> u32 {
    u32::try_from(inode).unwrap_or_default()
}

pub(super) fn tcp_ports(policy: &Policy) -> BTreeSet<u16> {
    tcp_services(policy).flat_map(|service| service.ports.iter().cloned().flatten()).collect()
}

fn tcp_services(policy: &Policy) -> impl Iterator<Item = &Service> {
    policy.services.iter().filter(|service| service.protocols.contains(&Protocol::Tcp))
}
