//! Ending connections.

use std::collections::{BTreeSet, HashSet};
use std::io;

use ipnet::IpNet;

use super::look::Effort;
use super::select::Candidate;
use crate::nets::Nets;

use super::{CameThrough, Connection, Error, Note, Sockets, State};

/// Connections may be opened between a look and the destruction of what it found, so there is another look after it. A source whose
/// packets still arrive can go on opening some for ever.
const LOOKS: usize = 8;

/// What became of the connections of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Sockets that were destroyed.
    pub sockets: usize,
    /// Those that the kernel did not destroy, and were there at the last look.
    pub failed: Vec<Failure>,
    /// What could not be looked at.
    pub notes: Vec<Note>,
}

/// A connection that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub connection: Connection,
    pub reason: String,
}

impl Sockets {
    /// Destroys the sockets of clients in `nets`: those who asked for one of `ports`, or all of them, also those that this host opened
    /// to them. Peer and server see a reset. Sockets that are gone by then are no failures; where the source's packets are not
    /// dropped, it may open others.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn kill(
        &mut self,
        nets: &[IpNet],
        ports: Option<&BTreeSet<u16>>,
        came_through: CameThrough<'_>,
    ) -> Result<Killed, Error> {
        // A list may be long, and the sockets may be many.
        let theirs = Nets::new(nets);
        self.end(LOOKS, ports, came_through, |connection| theirs.contains(connection.client.ip()))
    }

    /// Destroys these sockets, by their cookies, of clients who asked for one of `ports`.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn kill_these(
        &mut self,
        cookies: &HashSet<u64>,
        ports: &BTreeSet<u16>,
        came_through: CameThrough<'_>,
    ) -> Result<Killed, Error> {
        self.end(1, Some(ports), came_through, |connection| cookies.contains(&connection.cookie))
    }

    fn end(
        &mut self,
        looks: usize,
        ports: Option<&BTreeSet<u16>>,
        came_through: CameThrough<'_>,
        is_wanted: impl Fn(&Connection) -> bool,
    ) -> Result<Killed, Error> {
        let mut killed = Killed::default();
        let mut destroyed = HashSet::new();
        for _ in 0..looks {
            let found = self.look(ports, Effort::Full, came_through)?;
            killed.notes = found.notes;
            let is_to_end = |found: &Candidate| may_be_ended(found) && is_wanted(&found.connection);
            let left: Vec<_> = found.candidates.into_iter().filter(is_to_end).collect();
            let failed = self.destroy_all(&left, &mut destroyed);
            let is_done = failed.len() == left.len();
            killed.failed = failed;
            if is_done {
                break;
            }
        }
        killed.sockets = destroyed.len();
        Ok(killed)
    }

    /// Returns what was not destroyed though it is there.
    fn destroy_all(&mut self, sockets: &[Candidate], destroyed: &mut HashSet<(u64, u64)>) -> Vec<Failure> {
        let mut failed = Vec::new();
        for candidate in sockets {
            match self.destroy(candidate) {
                Ok(was_there) => destroyed.extend(was_there.then_some(candidate.key())),
                Err(error) => {
                    let connection = candidate.connection.clone();
                    failed.push(Failure { connection, reason: reason(&error) });
                }
            }
        }
        failed
    }
}

/// What its process has closed ends by itself, and nobody works for it. Kernels before 6.12 take the timers from such a socket instead of
/// destroying it, so that it stays for ever.
fn may_be_ended(candidate: &Candidate) -> bool {
    !(candidate.socket.is_ownerless && candidate.connection.state == State::Closing)
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the kernel refuses it: CAP_NET_ADMIN is missing".into(),
        Some(libc::EOPNOTSUPP) => {
            "this kernel cannot destroy sockets: it lacks CONFIG_INET_DIAG_DESTROY".into()
        }
        _ => error.to_string(),
    }
}
