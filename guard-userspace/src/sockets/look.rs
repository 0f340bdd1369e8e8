//! A look at the sockets of all network namespaces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use caps::Capability;

use super::conntrack::Translations;
use super::diag::{Detail, Socket};
use super::enter::{self, Namespace, Visit};
use super::select::{Candidate, Memory, View, candidate, local_ports};
use super::visits::{Effort, Plan};
use super::{Counted, Error, Note, Ports, Sockets, diag, filter, namespaces, note};

/// Translations may lead to other ports than those that were looked for; then there is another look.
const LOOKS: usize = 3;

/// What to look for.
pub(super) struct Query<'a> {
    /// The ports that clients asked for; none: every connection.
    pub(super) ports: Option<&'a Ports>,
    pub(super) extent: Extent<'a>,
    pub(super) effort: Effort,
    pub(super) detail: Detail,
    pub(super) counted: &'a Counted<'a>,
}

/// Which namespaces to look into, besides the own one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent<'a> {
    Everywhere,
    Only(&'a BTreeSet<u64>),
}

/// What a look has found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    pub(super) namespaces: BTreeSet<u64>,
    pub(super) notes: Vec<Note>,
}

/// What is in a namespace.
struct Inside {
    namespace: u64,
    ephemeral: RangeInclusive<u16>,
    listening: BTreeSet<u16>,
    connected: Vec<Socket>,
    is_looked_through: bool,
}

/// What is looked for in each namespace.
struct Errand<'a> {
    local: Option<Arc<BTreeSet<u16>>>,
    filter: Option<Vec<u8>>,
    detail: Detail,
    effort: Effort,
    /// Looked through in any case.
    needed: &'a BTreeSet<u64>,
}

impl Sockets {
    pub(super) fn look(&mut self, query: &Query<'_>) -> Result<Found, Error> {
        let (plan, needed, notes) = self.plan(query);
        let mut found = Found::default();
        for _ in 0..LOOKS {
            let local = query.ports.map(|ports| local_ports(ports, &self.translations, &self.memory));
            found.notes.clone_from(&notes);
            let filter = local.as_ref().and_then(filter::program);
            let errand = Errand {
                local: local.map(Arc::new),
                filter,
                detail: query.detail,
                effort: query.effort,
                needed: &needed,
            };
            let (insides, passed_by) = self.insides(&errand, &plan, &mut found.notes)?;
            found.namespaces = insides.iter().map(|inside| inside.namespace).collect();
            let others = insides.iter().filter(|inside| inside.namespace != self.identity.inode);
            let listening = others.flat_map(|inside| inside.listening.iter().copied()).collect();
            if matches!(query.extent, Extent::Everywhere) {
                let are_all = plan.left + passed_by == 0 && found.notes.iter().all(is_of_processes);
                self.listening_elsewhere = are_all.then_some(listening);
            }
            // After the sockets: the entry of a connection is older than its socket, so one that is missing then was not translated.
            self.translate(&mut found.notes);
            found.candidates = self.candidates(insides, errand.local.as_deref(), query.counted, query.detail);
            let is_complete = |(ports, local): (&Ports, &Arc<BTreeSet<u16>>)| {
                local_ports(ports, &self.translations, &self.memory).is_subset(local)
            };
            if query.ports.zip(errand.local.as_ref()).is_none_or(is_complete) {
                break;
            }
        }
        found.candidates.retain(|found| found.is_wanted(query.ports));
        Ok(found)
    }

    /// The namespaces to enter, and those among them that are looked through in any case.
    fn plan(&mut self, query: &Query<'_>) -> (Plan, BTreeSet<u64>, Vec<Note>) {
        let mut found = namespaces::find(&self.places, self.identity);
        let mut notes = Vec::new();
        if found.hidden > 0 {
            let reason = note::refused(Capability::CAP_SYS_PTRACE, None);
            notes.push(Note::HiddenProcesses { count: found.hidden, reason });
        }
        // They cannot be mistaken for others: a number is free only when its namespace is gone.
        let own = self.identity.inode;
        self.memory.retain(|(inode, _), _| *inode == own || found.namespaces.contains_key(inode));
        let count = found.namespaces.len();
        if count > 0 && !note::has(Capability::CAP_SYS_ADMIN) {
            notes.push(Note::NotEntered { count, reason: note::refused(Capability::CAP_SYS_ADMIN, None) });
            found.namespaces.clear();
        }
        let needed = match query.extent {
            Extent::Only(only) => {
                found.namespaces.retain(|inode, _| only.contains(inode));
                only.clone()
            }
            Extent::Everywhere => {
                let mut needed = query.counted.namespaces();
                needed.extend(self.memory.keys().map(|(namespace, _)| *namespace));
                needed
            }
        };
        let plan = self.visits.plan(found.namespaces, &needed, query.effort);
        (plan, needed, notes)
    }

    fn candidates(
        &mut self,
        insides: Vec<Inside>,
        local: Option<&BTreeSet<u16>>,
        counted: &Counted<'_>,
        detail: Detail,
    ) -> Vec<Candidate> {
        // A list may show a socket twice that moved while it was made.
        let mut found = HashMap::new();
        let mut looked_through = BTreeSet::new();
        for Inside { namespace, ephemeral, listening, connected, is_looked_through } in insides {
            let (translations, memory) = (&self.translations, &self.memory);
            let (listening, ephemeral) = (&listening, &ephemeral);
            let is_host = namespace == self.identity.inode;
            let view = View { namespace, is_host, counted, listening, ephemeral, translations, memory };
            let candidates = connected.into_iter().filter_map(|socket| candidate(socket, &view));
            found.extend(candidates.map(|candidate| (candidate.key(), candidate)));
            looked_through.extend(is_looked_through.then_some(namespace));
        }
        if let Some(local) = local {
            remember(&mut self.memory, local, &looked_through, &found);
        }
        if detail == Detail::Full {
            for (key, found) in &mut found {
                found.connection.seen = self.memory.get(key).map(|known| known.since.elapsed());
            }
        }
        found.into_values().collect()
    }

    /// The sockets with these local ports, or all, of the own namespace and those of the plan; and how many of these there was no time for.
    fn insides(
        &mut self,
        errand: &Errand<'_>,
        plan: &Plan,
        notes: &mut Vec<Note>,
    ) -> Result<(Vec<Inside>, usize), Error> {
        if errand.local.as_ref().is_some_and(|local| local.is_empty()) {
            return Ok((Vec::new(), 0));
        }
        let own = self.identity.inode;
        let tells_multipath = self.own.multipath;
        let mut insides = vec![errand.run(own, &mut self.own, true, true).map_err(Error::List)?];
        notes.extend((tells_multipath && !self.own.multipath).then_some(Note::NoMultipath));
        let mut left = errand.effort.looked_through();
        let visits = &self.visits;
        let work = |inode, namespace: &mut Namespace| {
            let is_needed = errand.needed.contains(&inode);
            let has_looked = errand.local.as_ref().is_some_and(|local| visits.has_looked_for(inode, local));
            let is_due = is_needed || left > 0 && (errand.effort == Effort::Full || !has_looked);
            let inside = errand.run(inode, namespace, is_due, is_needed || left > 0);
            if !is_needed && inside.as_ref().is_ok_and(|inside| inside.is_looked_through) {
                left -= 1;
            }
            inside
        };
        let begun = Instant::now();
        let has_time = |inode| errand.needed.contains(&inode) || begun.elapsed() < errand.effort.time();
        let visited = enter::visit_all(plan.namespaces.clone(), has_time, work);
        let refused = |count, error: Option<&_>| {
            let reason = note::refused(Capability::CAP_SYS_ADMIN, error);
            Note::NotEntered { count, reason }
        };
        let visited = match visited {
            Ok(visited) => visited,
            Err(error) => {
                notes.push(refused(plan.namespaces.len(), Some(&error)));
                return Ok((insides, 0));
            }
        };
        let (mut count, mut last) = (0, None);
        // Not entered; not looked through.
        let (mut not_entered, mut passed_by) = (0, plan.left);
        for (inode, visit) in visited {
            match visit {
                Visit::Done(Ok(inside)) => {
                    let listens =
                        errand.local.as_ref().is_some_and(|local| !local.is_disjoint(&inside.listening));
                    let looked_for = errand.local.clone().filter(|_| inside.is_looked_through);
                    self.visits.note(inode, listens, looked_for);
                    passed_by += usize::from(!inside.is_looked_through);
                    insides.push(inside);
                }
                Visit::Done(Err(error)) => {
                    notes.push(Note::NotListed { inode, reason: error.to_string() });
                }
                Visit::Empty => {
                    self.visits.note(inode, false, errand.local.clone());
                    insides.push(Inside::empty(inode));
                }
                Visit::Gone => {}
                Visit::PassedBy => not_entered += 1,
                Visit::Refused(error) => {
                    count += 1;
                    last = Some(error);
                }
            }
        }
        notes.extend((count > 0).then(|| refused(count, last.as_ref())));
        passed_by += not_entered;
        let is_noted = passed_by > 0 && errand.effort == Effort::Full;
        notes.extend(is_noted.then_some(Note::NotVisited { count: passed_by }));
        Ok((insides, not_entered))
    }

    fn translate(&mut self, notes: &mut Vec<Note>) {
        self.translations = self.conntrack.translations().unwrap_or_else(|error| {
            let reason = note::refused(Capability::CAP_NET_ADMIN, Some(&error));
            notes.push(Note::NoTranslations { reason });
            Translations::default()
        });
    }

    /// The files that lead to other namespaces.
    pub(super) fn others(&self) -> BTreeMap<u64, Vec<PathBuf>> {
        namespaces::find(&self.places, self.identity).namespaces
    }
}

/// Containers have namespaces with names: those are looked at, whatever a process hides.
const fn is_of_processes(note: &Note) -> bool {
    match note {
        Note::HiddenProcesses { .. } | Note::NoTranslations { .. } | Note::NoMultipath => true,
        Note::NotEntered { .. } | Note::NotListed { .. } | Note::NotVisited { .. } => false,
    }
}

impl Errand<'_> {
    /// `is_due`: connections are asked for in any case; `may_be`: where something listens on the ports.
    fn run(&self, inode: u64, namespace: &mut Namespace, is_due: bool, may_be: bool) -> io::Result<Inside> {
        let filter = self.filter.as_deref();
        let channel = &mut namespace.channel;
        let listening = diag::listening(channel, filter)?;
        let listens = || self.local.as_ref().is_none_or(|local| !local.is_disjoint(&listening));
        let is_looked_through = is_due || may_be && listens();
        let connected = if is_looked_through {
            diag::connected(channel, filter, &mut namespace.multipath, self.detail)?
        } else {
            Vec::new()
        };
        let ephemeral = namespace.ephemeral.clone();
        Ok(Inside { namespace: inode, ephemeral, listening, connected, is_looked_through })
    }
}

impl Inside {
    fn empty(namespace: u64) -> Self {
        let (listening, connected) = (BTreeSet::new(), Vec::new());
        Self { namespace, ephemeral: 0..=0, listening, connected, is_looked_through: true }
    }
}

/// Keeps what is known of the connections found; what was known of others with these local ports, in the namespaces that were looked
/// through, is of sockets that are gone.
fn remember(
    memory: &mut Memory,
    local: &BTreeSet<u16>,
    looked_through: &BTreeSet<u64>,
    found: &HashMap<(u64, u64), Candidate>,
) {
    memory.retain(|key, known| {
        let (namespace, _) = key;
        !looked_through.contains(namespace) || !local.contains(&known.local_port) || found.contains_key(key)
    });
    let now = Instant::now();
    for (key, found) in found.iter().filter(|(_, found)| found.is_incoming) {
        let since = memory.get(key).map_or(now, |known| known.since);
        memory.insert(*key, found.known(since));
    }
}
