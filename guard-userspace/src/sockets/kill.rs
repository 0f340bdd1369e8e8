//! Ending connections.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::diag::{self, Detail, Kind, Socket};
use super::enter::{self, Visit};
use super::look::{Extent, Query};
use super::netlink::Channel;
use super::owner::{self, Target};
use super::select::Candidate;
use super::visits::Effort;
use super::{Connection, Counted, Error, Note, Ports, Sockets, State};
use crate::nets::Nets;

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
    /// Those that are counted in network namespaces that could not be looked into.
    pub unreached: usize,
    /// What could not be looked at.
    pub notes: Vec<Note>,
}

/// A connection that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub connection: Connection,
    pub reason: String,
}

/// What of a kill is the same for all its looks.
struct Order<'a> {
    ports: Option<&'a Ports>,
    counted: &'a Counted<'a>,
    /// By cookie and client.
    is_wanted: &'a dyn Fn(u64, IpAddr) -> bool,
}

impl Killed {
    /// How many connections go on, and why; none if there are none.
    pub fn left(&self) -> Option<String> {
        let count = self.failed.len() + self.unreached;
        let why = self.failed.first().map_or_else(
            || "their network namespaces cannot be entered".to_owned(),
            |Failure { connection, reason }| format!("such as that of {}: {reason}", connection.client),
        );
        match count {
            0 => None,
            1 => Some(format!("1 connection goes on, {why}")),
            _ => Some(format!("{count} connections go on, {why}")),
        }
    }
}

impl Sockets {
    /// Destroys the sockets of clients in `nets`: those who asked for one of `ports`, or all of them, also those that this host opened
    /// to them. Peer and server see a reset. Sockets that are gone by then are no failures; where the source's packets are not
    /// dropped, it may open others. What is counted ends, even where only the count knows whose it is.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn kill(
        &mut self,
        nets: &[IpNet],
        ports: Option<&Ports>,
        counted: &Counted<'_>,
    ) -> Result<Killed, Error> {
        // A list may be long, and the sockets may be many.
        let theirs = Nets::new(nets);
        let is_wanted = |_, client: IpAddr| theirs.contains(client);
        self.end(LOOKS, Extent::Everywhere, &Order { ports, counted, is_wanted: &is_wanted })
    }

    /// Destroys the sockets with these cookies, of which the kernel has told, of clients who asked for one of `ports`. Where all of them are
    /// counted, only their namespaces are looked at.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn kill_these(
        &mut self,
        cookies: &HashSet<u64>,
        ports: &Ports,
        counted: &Counted<'_>,
    ) -> Result<Killed, Error> {
        let is_wanted = |cookie: u64, _| cookies.contains(&cookie);
        let namespace = |cookie: &u64| counted.connections.get(cookie).map(|of| of.namespace);
        let namespaces: Option<BTreeSet<u64>> = cookies.iter().map(namespace).collect();
        let extent = namespaces.as_ref().map_or(Extent::Everywhere, Extent::Only);
        // The kernel has told of them: for some its tables have no room.
        let came_through = |cookie| cookies.contains(&cookie) || (counted.came_through)(cookie);
        let connections = counted.connections.clone();
        let counted = &Counted { came_through: Box::new(came_through), connections };
        self.end(1, extent, &Order { ports: Some(ports), counted, is_wanted: &is_wanted })
    }

    fn end(&mut self, looks: usize, extent: Extent<'_>, order: &Order<'_>) -> Result<Killed, Error> {
        let mut destroyed = HashSet::new();
        let mut found = self.look(&order.query(order.ports, extent))?;
        let mut killed = Killed { notes: std::mem::take(&mut found.notes), ..Killed::default() };
        let forgotten = self.forgotten(order, &found.candidates, &mut killed)?;
        let for_good = self.destroy_all(&forgotten, &mut destroyed);
        for look in 1..=looks {
            let left: Vec<_> = found.candidates.into_iter().filter(|found| order.is_to_end(found)).collect();
            killed.failed = self.destroy_all(&left, &mut destroyed);
            if killed.failed.len() == left.len() || look == looks {
                break;
            }
            // Others may have been opened beside them in between.
            let namespaces = left.iter().map(|left| left.connection.namespace).collect();
            found = self.look(&order.query(order.ports, Extent::Only(&namespaces)))?;
        }
        killed.failed.extend(for_good);
        killed.sockets = destroyed.len();
        Ok(killed)
    }

    /// Those that are counted, and that a look for ports does not find; see [`Counted::missing`].
    fn forgotten(
        &mut self,
        order: &Order<'_>,
        found: &[Candidate],
        killed: &mut Killed,
    ) -> Result<Vec<Candidate>, Error> {
        let missing = order.counted.missing(found, order.is_wanted);
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let namespaces = missing.values().copied().collect();
        let all = self.look(&order.query(None, Extent::Only(&namespaces)))?;
        // A namespace that is gone has taken its sockets along.
        let exist = self.others();
        let is_unread =
            |namespace: &&u64| exist.contains_key(namespace) && !all.namespaces.contains(namespace);
        killed.unreached = missing.values().filter(is_unread).count();
        let is_missing = |found: &Candidate| missing.contains_key(&found.connection.cookie);
        let is_theirs = |Candidate { connection, is_counted, .. }: &Candidate| {
            order.ports.is_none_or(|ports| *is_counted && !connection.is_elsewhere(ports))
        };
        let is_to_end = |found: &Candidate| is_missing(found) && is_theirs(found) && may_be_ended(found);
        Ok(all.candidates.into_iter().filter(is_to_end).collect())
    }

    /// Returns what was not destroyed though it is there.
    fn destroy_all(&mut self, sockets: &[Candidate], destroyed: &mut HashSet<(u64, u64)>) -> Vec<Failure> {
        let mut failures: HashMap<(u64, u64), String> = HashMap::new();
        let ended = self.end_multipath(sockets, &mut failures);
        destroyed.extend(&ended);
        let mut by_namespace: BTreeMap<u64, Vec<&Candidate>> = BTreeMap::new();
        for candidate in sockets.iter().filter(|candidate| !ended.contains(&candidate.key())) {
            by_namespace.entry(candidate.connection.namespace).or_default().push(candidate);
        }
        let mut destroy = |inode: u64, channel: &mut Channel| {
            for candidate in by_namespace.get(&inode).into_iter().flatten() {
                match destroy(channel, &candidate.socket) {
                    // Without its subflows, but not ended.
                    Ok(_) if failures.contains_key(&candidate.key()) => {}
                    Ok(was_there) => destroyed.extend(was_there.then_some(candidate.key())),
                    Err(error) => drop(failures.insert(candidate.key(), reason(&error))),
                }
            }
        };
        let own = self.identity.inode;
        destroy(own, &mut self.own.channel);
        let mut others =
            if by_namespace.keys().all(|inode| *inode == own) { BTreeMap::new() } else { self.others() };
        others.retain(|inode, _| by_namespace.contains_key(inode));
        let all = |_| true;
        let visits = enter::visit_all(others.into_iter().collect(), all, |inode, namespace| {
            destroy(inode, &mut namespace.channel);
        });
        let refused: Vec<(u64, String)> = match visits {
            Err(error) => by_namespace.keys().map(|inode| (*inode, error.to_string())).collect(),
            Ok(visits) => {
                visits.into_iter().filter_map(|(inode, visit)| Some((inode, refusal(visit)?))).collect()
            }
        };
        for (inode, why) in refused {
            let of = by_namespace.get(&inode).into_iter().flatten();
            failures.extend(of.map(|candidate| (candidate.key(), why.clone())));
        }
        let failure = |candidate: &Candidate| {
            let reason = failures.remove(&candidate.key())?;
            Some(Failure { connection: candidate.connection.clone(), reason })
        };
        sockets.iter().filter_map(failure).collect()
    }

    /// Ends the connections of Multipath TCP. Returns which were ended.
    fn end_multipath(
        &self,
        sockets: &[Candidate],
        failures: &mut HashMap<(u64, u64), String>,
    ) -> HashSet<(u64, u64)> {
        let is_multipath = |candidate: &&Candidate| {
            matches!(candidate.socket.kind, Kind::Multipath(_)) && !candidate.socket.is_ownerless()
        };
        let wanted: Vec<_> = sockets.iter().filter(is_multipath).collect();
        let target = |candidate: &&Candidate| Target {
            cookie: candidate.connection.cookie,
            inode: candidate.socket.inode,
            namespace: candidate.connection.namespace,
        };
        let targets: Vec<_> = wanted.iter().map(target).collect();
        let mut ended = HashSet::new();
        if targets.is_empty() {
            return ended;
        }
        for (candidate, result) in wanted.iter().zip(owner::end_all(&targets, &self.places.processes)) {
            match result {
                Ok(()) => drop(ended.insert(candidate.key())),
                Err(error) => drop(failures.insert(candidate.key(), not_ended(&error))),
            }
        }
        ended
    }
}

impl Order<'_> {
    fn query<'q>(&'q self, ports: Option<&'q Ports>, extent: Extent<'q>) -> Query<'q> {
        Query { ports, extent, effort: Effort::Full, detail: Detail::Little, counted: self.counted }
    }

    fn is_to_end(&self, found: &Candidate) -> bool {
        may_be_ended(found) && (self.is_wanted)(found.connection.cookie, found.connection.client.ip())
    }
}

/// What its process has closed ends by itself, and nobody works for it. Kernels before 6.12 take the timers from such a socket instead of
/// destroying it, so that it stays for ever. So does one of Multipath TCP that no process has accepted, when its subflows are gone.
fn may_be_ended(candidate: &Candidate) -> bool {
    let is_over = match &candidate.socket.kind {
        Kind::Tcp => candidate.connection.state == State::Closing,
        Kind::Multipath(subflows) => candidate.connection.state == State::Closing || subflows.is_empty(),
    };
    !(candidate.socket.is_ownerless() && is_over)
}

/// Ends what is of TCP. Returns whether it was still there.
fn destroy(channel: &mut Channel, socket: &Socket) -> io::Result<bool> {
    match &socket.kind {
        Kind::Tcp => diag::destroy(channel, &socket.name),
        Kind::Multipath(subflows) => {
            subflows.iter().try_fold(false, |any, subflow| Ok(diag::destroy(channel, subflow)? || any))
        }
    }
}

/// Why nothing was done in a namespace; nothing is to be done in one that is gone.
fn refusal(visit: Visit<()>) -> Option<String> {
    match visit {
        Visit::Done(()) | Visit::Empty | Visit::Gone | Visit::PassedBy => None,
        Visit::Refused(error) => Some(format!("its network namespace cannot be entered: {error}")),
    }
}

fn not_ended(error: &owner::Error) -> String {
    format!(
        "it is of Multipath TCP, and cannot be ended ({error}); its subflows are closed, and the server's process is told when net.mptcp.close_timeout is over (sysctl, in its network namespace; 60 s by default)"
    )
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
