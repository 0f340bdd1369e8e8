//! The TCP connections of clients, in every network namespace of this host, and how to end them.
//!
//! | module | what it does |
//! | --- | --- |
//! | `namespaces` | finds the network namespaces |
//! | `enter` | opens sockets to the kernel in them |
//! | `netlink` | asks the kernel |
//! | `filter` | local ports, as the kernel takes them |
//! | `diag` | the sockets of a namespace |
//! | `conntrack` | which port a client asked for |
//! | `nat` | whether the host translates what comes in |
//! | `select` | whose connection a socket is |
//! | `look` | all of it together |
//! | `reach` | whether clients get to a guarded port through that port |
//! | `kill` | ending connections |
//! | `note` | what could not be looked at |
//!
//! All calls block, for milliseconds.

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
mod reach;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use kill::{Failure, Killed};
pub use namespaces::Places;
pub use note::Note;
pub use reach::Reach;

use conntrack::{Conntrack, Translations};
use enter::Namespace;
use look::{Effort, Found};
use namespaces::Identity;
use select::Memory;

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

/// A TCP connection. IPv6 addresses that stand for IPv4 ones are IPv4 addresses here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client as the host's uplink saw it.
    pub client: SocketAddr,
    /// The port that it asked for.
    pub service_port: u16,
    /// The server's end; in a container it may have another port.
    pub local: SocketAddr,
    pub state: State,
    /// The inode of the network namespace that the socket is in.
    pub namespace: u64,
    /// With the namespace, tells this socket from all others of this boot.
    pub cookie: u64,
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

/// Whether a socket, by its cookie, is of a connection that the packet path saw come in. It tells a container that clients reach by routing,
/// without translation, from a namespace whose owner gave a socket whatever addresses he liked.
pub type CameThrough<'a> = &'a dyn Fn(u64) -> bool;

/// The sockets of this host. Keeps a descriptor for each network namespace, which lives for as long: whoever stops looking calls
/// [`Sockets::forget`].
#[derive(Debug)]
pub struct Sockets {
    places: Places,
    identity: Identity,
    own: Namespace,
    others: BTreeMap<u64, Namespace>,
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
            others: BTreeMap::new(),
            conntrack: Conntrack::open(),
            translations: Translations::default(),
            memory: Memory::new(),
            listening_elsewhere: None,
        })
    }

    /// The connections of clients who asked for one of `ports`, in no order. Clients on loopback are left out, and so are connections
    /// that this host opened; so are those of a server that has begun and stopped listening since the last look. Of those in other
    /// namespaces only the translated are asked for, and those that came through the guard.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list(&mut self, ports: &BTreeSet<u16>, came_through: CameThrough<'_>) -> Result<Listing, Error> {
        Ok(self.look(Some(ports), Effort::Little, came_through)?.into())
    }

    /// All connections there are, from and to whatever port.
    ///
    /// # Errors
    /// When the sockets of the own namespace cannot be listed.
    pub fn list_all(&mut self) -> Result<Listing, Error> {
        Ok(self.look(None, Effort::Full, &|_| true)?.into())
    }

    /// Lets go of all other namespaces; the next look opens them again.
    pub fn forget(&mut self) {
        self.others.clear();
    }
}
