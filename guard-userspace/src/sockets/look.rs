//! A look at the sockets of all network namespaces.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;

use caps::Capability;

use super::conntrack::Translations;
use super::diag::Socket;
use super::enter::{self, Entered, Namespace};
use super::select::{Candidate, Memory, View, candidate, local_ports};
use super::{CameThrough, Error, Note, Sockets, diag, filter, namespaces, note};

/// How much a look may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// For one from time to time: a namespace in which nothing listens on these ports, and nothing did when it was last looked through,
    /// is not looked through. The kernel takes up to milliseconds for each, whatever is in it.
    Little,
    Full,
}

/// Translations may lead to other ports than those that were looked for; then there is another look.
const LOOKS: usize = 3;

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
}

impl Sockets {
    /// The connections to these ports, or all.
    pub(super) fn look(
        &mut self,
        ports: Option<&BTreeSet<u16>>,
        effort: Effort,
        came_through: CameThrough<'_>,
    ) -> Result<Found, Error> {
        let notes = self.follow();
        let mut found = Found::default();
        for _ in 0..LOOKS {
            let local = ports.map(|ports| local_ports(ports, &self.translations, &self.memory));
            found.notes.clone_from(&notes);
            let insides = self.insides(local.as_ref(), effort, &mut found.notes)?;
            found.namespaces = insides.iter().map(|inside| inside.namespace).collect();
            let others = insides.iter().filter(|inside| inside.namespace != self.identity.inode);
            let listening = others.flat_map(|inside| inside.listening.iter().copied()).collect();
            self.listening_elsewhere = found.notes.iter().all(is_of_processes).then_some(listening);
            // After the sockets: the entry of a connection is older than its socket, so one that is not there was not translated.
            self.translate(&mut found.notes);
            found.candidates = self.candidates(insides, local.as_ref(), came_through);
            let is_complete = |(ports, local): (&BTreeSet<u16>, &BTreeSet<u16>)| {
                local_ports(ports, &self.translations, &self.memory).is_subset(local)
            };
            if ports.zip(local.as_ref()).is_none_or(is_complete) {
                break;
            }
        }
        found.candidates.retain(|found| found.is_wanted(ports));
        Ok(found)
    }

    fn candidates(
        &mut self,
        insides: Vec<Inside>,
        local: Option<&BTreeSet<u16>>,
        came_through: CameThrough<'_>,
    ) -> Vec<Candidate> {
        // A list may show a socket twice that moved while it was made.
        let mut found = HashMap::new();
        for Inside { namespace, ephemeral, listening, connected } in insides {
            let (translations, memory) = (&self.translations, &self.memory);
            let (listening, ephemeral) = (&listening, &ephemeral);
            let is_host = namespace == self.identity.inode;
            let view = View { namespace, is_host, came_through, listening, ephemeral, translations, memory };
            let candidates = connected.into_iter().filter_map(|socket| candidate(socket, &view));
            found.extend(candidates.map(|candidate| (candidate.key(), candidate)));
        }
        if let Some(local) = local {
            remember(&mut self.memory, local, &found);
        }
        found.into_values().collect()
    }

    /// Returns whether it was still there.
    pub(super) fn destroy(&mut self, candidate: &Candidate) -> io::Result<bool> {
        self.namespace(candidate.connection.namespace)
            .map_or(Ok(false), |namespace| diag::destroy(&mut namespace.channel, &candidate.socket))
    }

    fn namespace(&mut self, inode: u64) -> Option<&mut Namespace> {
        if inode == self.identity.inode { Some(&mut self.own) } else { self.others.get_mut(&inode) }
    }

    /// Opens the namespaces that are new and closes those that are gone. They cannot be mistaken for each other: a number is free only
    /// when its namespace has been let go of.
    fn follow(&mut self) -> Vec<Note> {
        let found = namespaces::find(&self.places, self.identity);
        self.others.retain(|inode, _| found.namespaces.contains_key(inode));
        let mut notes = Vec::new();
        if found.hidden > 0 {
            let reason = note::refused(Capability::CAP_SYS_PTRACE, None);
            notes.push(Note::HiddenProcesses { count: found.hidden, reason });
        }
        let unknown = found.namespaces.into_iter().filter(|(inode, _)| !self.others.contains_key(inode));
        let unknown: Vec<_> = unknown.collect();
        let count = unknown.len();
        let refused = |count, error: Option<&_>| {
            let reason = note::refused(Capability::CAP_SYS_ADMIN, error);
            Note::NotEntered { count, reason }
        };
        if count > 0 && !note::has(Capability::CAP_SYS_ADMIN) {
            notes.push(refused(count, None));
            return notes;
        }
        match enter::enter_all(unknown) {
            Err(error) => notes.push(refused(count, Some(&error))),
            Ok(entered) => {
                let (mut count, mut last) = (0, None);
                for (inode, entered) in entered {
                    match entered {
                        Entered::Open(namespace) => drop(self.others.insert(inode, namespace)),
                        Entered::Gone => {}
                        Entered::Refused(error) => {
                            count += 1;
                            last = Some(error);
                        }
                    }
                }
                notes.extend((count > 0).then(|| refused(count, last.as_ref())));
            }
        }
        notes
    }

    /// The sockets with these local ports, or all.
    fn insides(
        &mut self,
        local: Option<&BTreeSet<u16>>,
        effort: Effort,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Inside>, Error> {
        if local.is_some_and(BTreeSet::is_empty) {
            return Ok(Vec::new());
        }
        let filter = local.and_then(filter::program);
        let known: HashSet<u64> = self.memory.keys().map(|(namespace, _)| *namespace).collect();
        let inside = |inode: u64, namespace: &mut Namespace| {
            let effort = if known.contains(&inode) { Effort::Full } else { effort };
            namespace.inside(inode, local, filter.as_deref(), effort)
        };
        let mut insides = vec![inside(self.identity.inode, &mut self.own).map_err(Error::List)?];
        self.others.retain(|inode, namespace| match inside(*inode, namespace) {
            Ok(found) => {
                insides.push(found);
                true
            }
            // Its socket is opened again at the next look.
            Err(error) => {
                notes.push(Note::NotListed { inode: *inode, reason: error.to_string() });
                false
            }
        });
        Ok(insides)
    }

    fn translate(&mut self, notes: &mut Vec<Note>) {
        self.translations = self.conntrack.translations().unwrap_or_else(|error| {
            let reason = note::refused(Capability::CAP_NET_ADMIN, Some(&error));
            notes.push(Note::NoTranslations { reason });
            Translations::default()
        });
    }
}

impl Namespace {
    fn inside(
        &mut self,
        inode: u64,
        local: Option<&BTreeSet<u16>>,
        filter: Option<&[u8]>,
        effort: Effort,
    ) -> io::Result<Inside> {
        let listening = diag::listening(&mut self.channel, filter)?;
        let is_worth_it = effort == Effort::Full
            || local.is_none_or(|local| !local.is_disjoint(&listening) || !local.is_subset(&self.looked_for));
        let connected = if is_worth_it { diag::connected(&mut self.channel, filter)? } else { Vec::new() };
        if let (true, Some(local)) = (is_worth_it, local) {
            self.looked_for.clone_from(local);
        }
        Ok(Inside { namespace: inode, ephemeral: self.ephemeral.clone(), listening, connected })
    }
}

/// Containers have namespaces with names: those are looked at, whatever a process hides.
const fn is_of_processes(note: &Note) -> bool {
    match note {
        Note::HiddenProcesses { .. } | Note::NoTranslations { .. } => true,
        Note::NotEntered { .. } | Note::NotListed { .. } => false,
    }
}

/// Keeps what is known of the connections found; what was known of others with these local ports is of sockets that are gone.
fn remember(memory: &mut Memory, local: &BTreeSet<u16>, found: &HashMap<(u64, u64), Candidate>) {
    memory.retain(|_, known| !local.contains(&known.local_port));
    let incoming = found.values().filter(|found| found.is_incoming);
    memory.extend(incoming.map(|found| (found.key(), found.known())));
}
