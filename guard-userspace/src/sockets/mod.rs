//! The TCP connections of clients, in every network namespace of this host, and how to end them.
//!
//! | module | what it does |
//! | --- | --- |
//! | `namespaces` | finds the network namespaces |
//! | `visits` | chooses those to look into |
//! | `enter` | visits them |
//! | `netlink` | asks the kernel |
//! | `filter` | local ports, as the kernel takes them |
//! | `ports` | which ports clients asked for, at which addresses |
//! | `diag` | the sockets of a namespace |
//! | `answer` | what the kernel says of a socket |
//! | `conntrack` | which port a client asked for |
//! | `nat` | whether the host translates what comes in |
//! | `select` | whose connection a socket is |
//! | `look` | all of it together |
//! | `reach` | whether clients get to a guarded port through that port |
//! | `kill` | ending connections |
//! | `owner` | ending those of Multipath TCP |
//! | `note` | what could not be looked at |
//! | `users` | which user of this host a client is |
//!
//! All calls block, for milliseconds.

mod answer;
mod conntrack;
mod diag;
mod enter;
mod filter;
mod kill;
mod look;
mod namespaces;
mod nat;
mod netlink;
mod note;
mod owner;
mod ports;
mod reach;
mod select;
mod users;
mod visits;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use kill::{Failure, Killed};
pub use namespaces::Places;
pub use note::Note;
pub use ports::Ports;
pub use reach::Reach;
pub use users::Users;

use conntrack::{Conntrack, Translations};
use diag::Detail;
use enter::Namespace;
use look::{Extent, Found, Query};
use namespaces::Identity;
use select::{Candidate, Memory};
use visits::{Effort, Visits};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The client has asked, and not yet shown that it gets answers. Its address may be forged.
    HalfOpen,
    Established,
    /// The peer sends no more (CLOSE_WAIT): it may have gone away, and the server may still work for it.
    ClosedByPeer,
    /// This side has closed it (FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK), and the end is not yet through.
    Closing,
}

/// What tells whose a connection is, and which port its client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBy {
    /// The socket itself: nothing is translated.
    Socket,
    /// Conntrack, which has translated it.
    Conntrack,
    /// A look before, which conntrack told. It has forgotten the connection since.
    EarlierLook,
    /// The kernel's count. Conntrack has forgotten the connection, and no look has seen it before that.
    Count,
}

/// A TCP connection. IPv6 addresses that stand for IPv4 ones are IPv4 addresses here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client as the host's uplink saw it.
    pub client: SocketAddr,
    /// What it asked for, as the host's uplink saw it.
    pub asked: SocketAddr,
    /// The server's end; in a container it may have another port.
    pub local: SocketAddr,
    pub state: State,
    pub known_by: KnownBy,
    /// Whether the socket is in the network namespace of the host, and not in one of a container.
    pub is_of_host: bool,
    /// The inode of the network namespace that the socket is in.
    pub namespace: u64,
    /// With the namespace, tells this socket from all others of this boot.
    pub cookie: u64,
    /// For how long nothing has come from the client, where details were asked for and the kernel tells.
    pub silent: Option<Duration>,
    /// How many bytes the client has acknowledged, where details were asked for.
    pub acknowledged: Option<u64>,
    /// For how long it has been seen, where details were asked for.
    pub seen: Option<Duration>,
}

impl Connection {
    /// Whether it is to one of these ports, and for certain to none of their addresses. Behind a translation that conntrack has forgotten
    /// nobody knows which address the client asked for.
    pub fn is_elsewhere(&self, ports: &Ports) -> bool {
        self.is_of_host && self.known_by == KnownBy::Socket && ports.are_elsewhere(self.asked)
    }
}

/// The connections to some ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub connections: Vec<Connection>,
    /// The inodes of the network namespaces that were looked at.
    pub namespaces: BTreeSet<u64>,
    /// What could not be looked at.
    pub notes: Vec<Note>,
}

impl From<Found> for Listing {
    fn from(Found { candidates, namespaces, notes }: Found) -> Self {
        let connections = candidates.into_iter().map(|candidate| candidate.connection).collect();
        Self { connections, namespaces, notes }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the network namespace of this process cannot be told: {0}")]
    Namespace(io::Error),
    #[error(
        "the TCP sockets of this host cannot be listed: {0} (the kernel needs CONFIG_INET_DIAG, or the module tcp_diag)"
    )]
    List(io::Error),
}

/// What the guard in the kernel knows of connections.
pub struct Counted<'a> {
    /// Whether a socket, by its cookie, is of a connection that the packet path saw come in. It tells a container that clients reach by
    /// routing, without translation, from a namespace whose owner gave a socket whatever addresses he liked.
    pub came_through: Box<dyn Fn(u64) -> bool + 'a>,
    /// The connections that are counted, by the cookies of their sockets.
    pub connections: HashMap<u64, CountedConnection>,
}

/// A connection to a guarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedConnection {
    pub client: SocketAddr,
    /// The inode of the network namespace that its socket is in; 0 if the kernel did not tell.
    pub namespace: u64,
}

impl<'a> Counted<'a> {
    /// Where nothing is counted.
    pub fn nothing(came_through: impl Fn(u64) -> bool + 'a) -> Self {
        Self { came_through: Box::new(came_through), connections: HashMap::new() }
    }

    fn namespaces(&self) -> BTreeSet<u64> {
        self.connections.values().map(|counted| counted.namespace).collect()
    }

    /// The wanted that a look has not found, and the inodes of their namespaces. A look for ports does not find what conntrack has forgotten
    /// if nothing remembers to which port of a container it goes.
    fn missing(&self, found: &[Candidate], is_wanted: impl Fn(u64, IpAddr) -> bool) -> HashMap<u64, u64> {
        let known: HashSet<u64> = found.iter().map(|found| found.connection.cookie).collect();
        let missing = |(cookie, of): (&u64, &CountedConnection)| {
            let is_missing = !known.contains(cookie) && is_wanted(*cookie, of.client.ip());
            is_missing.then_some((*cookie, of.namespace))
        };
        self.connections.iter().filter_map(missing).collect()
    }
}

/// The sockets of this host.
#[derive(Debug)]
pub struct Sockets {
    places: Places,
    identity: Identity,
    own: Namespace,
    visits: Visits,
    conntrack: Conntrack,
    /// As they were at the last look.
    translations: Translations,
    memory: Memory,
    /// The ports of the last look that something listens on in other namespaces; none if not all of them could be looked at.
    listening_elsewhere: Option<BTreeSet<u16>>,
}

impl Sockets {
    /// Begins in the network namespace of this thread: it is the host, whose conntrack knows the translations.
    ///
    /// # Errors
    /// When the kernel has no such interface.
    pub fn new() -> Result<Self, Error> {
        Self::within(Places::default())
    }

    /// As [`Sockets::new`], with other places to look for namespaces.
    ///
    /// # Errors
    /// When the kernel has no such interface.
    pub fn within(places: Places) -> Result<Self, Error> {
        Ok(Self {
            places,
            identity: namespaces::own().map_err(Error::Namespace)?,
            own: Namespace::here().map_err(Error::List)?,
            visits: Visits::default(),
            conntrack: Conntrack::open(),
            translations: Translations::default(),
            memory: Memory::new(),
            listening_elsewhere: None,
        })
    }

    /// The connections of clients who asked for one of `ports`, in no order. Clients on loopback are left out, and so are connections
    /// that this host opened; so are those of a server that has begun and stopped listening since the last look. Of those in other
    /// namespaces only the translated are asked for, and those that came through the guard. Where nothing is counted, only some of the
    /// namespaces are looked at each time.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list(&mut self, ports: &Ports, counted: &Counted<'_>) -> Result<Listing, Error> {
        self.list_with(ports, counted, Detail::Little)
    }

    /// The same, with how long each client has been silent and how much it has acknowledged.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list_with_details(&mut self, ports: &Ports, counted: &Counted<'_>) -> Result<Listing, Error> {
        self.list_with(ports, counted, Detail::Full)
    }

    /// The same, with those that conntrack had forgotten before any look saw them: what the kernel counts is looked for whatever its port.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list_with_forgotten(&mut self, ports: &Ports, counted: &Counted<'_>) -> Result<Listing, Error> {
        let (extent, effort, detail) = (Extent::Everywhere, Effort::Little, Detail::Full);
        let query = Query { ports: Some(ports), extent, effort, detail, counted };
        let mut found = self.look(&query)?;
        let missing = counted.missing(&found.candidates, |_, _| true);
        if !missing.is_empty() {
            let namespaces = missing.values().copied().collect();
            let all = self.look(&Query { ports: None, extent: Extent::Only(&namespaces), ..query })?;
            let is_missing = |Candidate { connection, .. }: &Candidate| {
                missing.contains_key(&connection.cookie) && !connection.is_elsewhere(ports)
            };
            found.candidates.extend(all.candidates.into_iter().filter(is_missing).map(Candidate::by_count));
        }
        Ok(found.into())
    }

    fn list_with(&mut self, ports: &Ports, counted: &Counted<'_>, detail: Detail) -> Result<Listing, Error> {
        let (extent, effort) = (Extent::Everywhere, Effort::Little);
        Ok(self.look(&Query { ports: Some(ports), extent, effort, detail, counted })?.into())
    }

    /// All connections there are in these namespaces and in the own one, from and to whatever port.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list_all(&mut self, namespaces: &BTreeSet<u64>) -> Result<Listing, Error> {
        let counted = &Counted::nothing(|_| true);
        let (extent, effort, detail) = (Extent::Only(namespaces), Effort::Full, Detail::Little);
        Ok(self.look(&Query { ports: None, extent, effort, detail, counted })?.into())
    }
}
