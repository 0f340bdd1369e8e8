//! A look at the sockets of all network namespaces.

use std::collections::{BTreeSet, HashMap};
use std::io;

use caps::Capability;

use super::conntrack::Translations;
use super::enter::{self, Entered, Namespace};
use super::select::{Candidate, Memory, View, candidates, local_ports};
use super::{Error, Note, Sockets, diag, filter, namespaces, note};

impl Sockets {
    /// The connections to these ports, or all.
    pub(super) fn look(
        &mut self,
        ports: Option<&BTreeSet<u16>>,
    ) -> Result<(Vec<Candidate>, Vec<Note>), Error> {
        let mut notes = self.follow();
        // Asked twice: before, for the ports that translations lead to; after, because the entry of a connection is older than its
        // socket, so one that is not there then was not translated.
        let local = match ports {
            Some(ports) => {
                let translations = self.conntrack.translations().unwrap_or_default();
                Some(local_ports(ports, &translations, &self.memory))
            }
            None => None,
        };
        let sockets = self.sockets(local.as_ref(), &mut notes)?;
        let translations = self.translations(&mut notes);
        let mut found = Vec::new();
        for (namespace, sockets) in sockets {
            let Some(ephemeral) = self.namespace(namespace).map(|namespace| namespace.ephemeral.clone())
            else {
                continue;
            };
            let memory = &self.memory;
            let is_host = namespace == self.identity.inode;
            let view =
                View { namespace, is_host, ephemeral: &ephemeral, translations: &translations, memory };
            found.extend(candidates(sockets, &view));
        }
        // A list may show a socket twice that moved while it was made.
        let found: HashMap<_, _> = found.into_iter().map(|found| (found.key(), found)).collect();
        if let Some(local) = &local {
            remember(&mut self.memory, local, &found);
        }
        Ok((found.into_values().filter(|found| found.is_wanted(ports)).collect(), notes))
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

    /// The sockets with these local ports, or all, by namespace.
    fn sockets(
        &mut self,
        local: Option<&BTreeSet<u16>>,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<(u64, diag::Sockets)>, Error> {
        if local.is_some_and(BTreeSet::is_empty) {
            return Ok(Vec::new());
        }
        let filter = local.and_then(filter::program);
        let own = diag::list(&mut self.own.channel, filter.as_deref()).map_err(Error::List)?;
        let mut sockets = vec![(self.identity.inode, own)];
        self.others.retain(|inode, namespace| match diag::list(&mut namespace.channel, filter.as_deref()) {
            Ok(found) => {
                sockets.push((*inode, found));
                true
            }
            // Its socket is opened again at the next look.
            Err(error) => {
                notes.push(Note::NotListed { inode: *inode, reason: error.to_string() });
                false
            }
        });
        Ok(sockets)
    }

    fn translations(&mut self, notes: &mut Vec<Note>) -> Translations {
        self.conntrack.translations().unwrap_or_else(|error| {
            let reason = note::refused(Capability::CAP_NET_ADMIN, Some(&error));
            notes.push(Note::NoTranslations { reason });
            Translations::default()
        })
    }
}

/// Keeps what is known of the connections found; what was known of others with these local ports is of sockets that are gone.
fn remember(memory: &mut Memory, local: &BTreeSet<u16>, found: &HashMap<(u64, u64), Candidate>) {
    memory.retain(|_, known| !local.contains(&known.local_port));
    let incoming = found.values().filter(|found| found.is_incoming);
    memory.extend(incoming.map(|found| (found.key(), found.known())));
}
