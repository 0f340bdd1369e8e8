//! Which sockets are connections of clients, and which port a client asked for.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::conntrack::{Ends, Origin, Translations};
use super::diag::Socket;
use super::{Connection, Counted, KnownBy, Ports, State};

/// What was known of sockets, by namespace and cookie. Conntrack forgets a silent connection long before its socket is gone, and a
/// server that is about to stop no longer listens.
pub(super) type Memory = HashMap<(u64, u64), Known>;

#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// None where only the count in the kernel tells the client.
    pub(super) origin: Option<Origin>,
    pub(super) local_port: u16,
    /// When it was first seen.
    pub(super) since: Instant,
}

/// A socket, and whose connection it is.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) connection: Connection,
    pub(super) socket: Socket,
    /// Whether the client opened it, as far as can be told.
    pub(super) is_incoming: bool,
    /// Whether it is known only from the count in the kernel: to a guarded port, whichever that was.
    pub(super) is_counted: bool,
}

/// A namespace, and what is known of its sockets.
pub(super) struct View<'a> {
    pub(super) namespace: u64,
    /// Whether it is that of the host itself.
    pub(super) is_host: bool,
    pub(super) counted: &'a Counted<'a>,
    /// The ports that something listens on.
    pub(super) listening: &'a BTreeSet<u16>,
    pub(super) ephemeral: &'a RangeInclusive<u16>,
    pub(super) translations: &'a Translations,
    pub(super) memory: &'a Memory,
}

impl Candidate {
    /// Whether a client opened it to one of these ports; every connection if there are none given.
    pub(super) fn is_wanted(&self, ports: Option<&Ports>) -> bool {
        let connection = &self.connection;
        ports.is_none_or(|ports| {
            if self.is_counted {
                !connection.is_elsewhere(ports)
            } else {
                self.is_incoming && ports.include(connection.asked)
            }
        })
    }

    /// As one that only the kernel's count tells of.
    pub(super) const fn by_count(mut self) -> Self {
        self.connection.known_by = KnownBy::Count;
        self
    }

    pub(super) const fn key(&self) -> (u64, u64) {
        (self.connection.namespace, self.connection.cookie)
    }

    pub(super) const fn known(&self, since: Instant) -> Known {
        let Connection { client, asked, local, .. } = self.connection;
        let origin = if self.is_counted { None } else { Some(Origin { client, asked }) };
        Known { origin, local_port: local.port(), since }
    }
}

/// Whose connection a socket is; none of a client on loopback.
pub(super) fn candidate(socket: Socket, view: &View<'_>) -> Option<Candidate> {
    let Socket { local, peer, state, cookie, silent, acknowledged, .. } = socket;
    let silent = silent.map(|milliseconds| Duration::from_millis(milliseconds.into()));
    let remembered = || view.memory.get(&(view.namespace, cookie)).and_then(|known| known.origin);
    let translated = view.translations.origin(Ends { peer, local });
    let known = translated.or_else(remembered);
    // What conntrack has forgotten, and no look has seen.
    let counted = view.counted.connections.get(&cookie).filter(|_| known.is_none());
    // The kernel gives no connection going out a port that a server has bound. That leaves those that a server used to have.
    let looks_incoming = state == State::HalfOpen
        || view.listening.contains(&local.port())
        || !view.ephemeral.contains(&local.port());
    // Else it has nothing to do with the ports of this host.
    let is_reached = || view.is_host || (view.counted.came_through)(cookie);
    let is_incoming = known.is_some() || counted.is_some() || looks_incoming && is_reached();
    let own = Origin { client: counted.map_or(peer, |counted| counted.client), asked: local };
    let known_by = match known {
        Some(_) if translated.is_some() => KnownBy::Conntrack,
        Some(origin) if origin != own => KnownBy::EarlierLook,
        Some(_) | None => KnownBy::Socket,
    };
    let Origin { client, asked } = known.unwrap_or(own);
    let seen = None;
    let connection = Connection {
        client,
        asked,
        local,
        state,
        known_by,
        is_of_host: view.is_host,
        namespace: view.namespace,
        cookie,
        silent,
        acknowledged,
        seen,
    };
    let is_loopback = client.ip().is_loopback() || peer.ip().is_loopback();
    let is_counted = counted.is_some();
    (!is_loopback).then_some(Candidate { connection, socket, is_incoming, is_counted })
}

/// The local ports of all sockets whose clients asked for one of `ports`.
pub(super) fn local_ports(ports: &Ports, translations: &Translations, memory: &Memory) -> BTreeSet<u16> {
    let is_asked = |known: &&Known| known.origin.is_some_and(|origin| ports.include(origin.asked));
    let remembered = memory.values().filter(is_asked);
    let mut local = ports.numbers().clone();
    local.extend(translations.local_ports(ports));
    local.extend(remembered.map(|known| known.local_port));
    local
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const CLIENT: &str = "10.0.0.9:4000";
    const NAMESPACE: u64 = 7;
    const ASKED: [u8; 4] = [10, 0, 0, 1];

    fn socket(local: &str, peer: &str, state: State) -> Socket {
        Socket::example(local.parse().unwrap(), peer.parse().unwrap(), state)
    }

    fn judge(
        socket: &Socket,
        listening: &[u16],
        translations: &Translations,
        memory: &Memory,
    ) -> Option<Candidate> {
        let (listening, ephemeral) = (&listening.iter().copied().collect(), &(32768..=60999));
        let (namespace, is_host, counted) = (NAMESPACE, true, &Counted::nothing(|_| false));
        let view = View { namespace, is_host, counted, listening, ephemeral, translations, memory };
        candidate(socket.clone(), &view)
    }

    fn translated(socket: &Socket, client: &str, port: u16) -> Translations {
        let origin = Origin { client: client.parse().unwrap(), asked: SocketAddr::from((ASKED, port)) };
        [(Ends { peer: socket.peer, local: socket.local }, origin)].into_iter().collect()
    }

    #[test]
    fn only_what_a_client_opened_is_wanted_for_a_port() {
        use State::{ClosedByPeer, Established, HalfOpen};
        let cases: [(&str, &str, State, &[u16], bool); 7] = [
            ("a service", "10.0.0.1:8000", Established, &[8000], true),
            ("a service that no longer listens", "10.0.0.1:8000", ClosedByPeer, &[], true),
            ("another port", "10.0.0.1:8001", Established, &[8001], false),
            ("a service among the ephemeral ports", "10.0.0.1:40000", Established, &[40000], true),
            ("its half-open connection", "10.0.0.1:40000", HalfOpen, &[], true),
            ("a connection going out from there", "10.0.0.1:40000", Established, &[], false),
            ("a connection going out to a service", "10.0.0.1:50000", Established, &[8000], false),
        ];
        let ports = Ports::from([8000, 40000]);
        for (name, local, state, listening, expected) in cases {
            let socket = socket(local, CLIENT, state);
            let candidate = judge(&socket, listening, &Translations::default(), &Memory::new()).unwrap();
            assert_eq!(candidate.is_wanted(Some(&ports)), expected, "{name}");
            assert!(candidate.is_wanted(None), "{name}");
            assert_eq!(candidate.connection.client, CLIENT.parse().unwrap(), "{name}");
        }
    }

    #[test]
    fn what_the_client_asked_for_counts() {
        let socket = socket("172.17.0.2:8000", "172.17.0.1:61000", State::Established);
        let ports = Ports::from([8000]);
        for (asked, expected) in [(8000, true), (7000, false)] {
            let translations = translated(&socket, CLIENT, asked);
            let candidate = judge(&socket, &[8000], &translations, &Memory::new()).unwrap();
            assert_eq!(candidate.is_wanted(Some(&ports)), expected, "{asked}");
            assert_eq!(candidate.connection.client, CLIENT.parse().unwrap());
            assert_eq!(candidate.connection.asked, SocketAddr::from((ASKED, asked)));
            // Conntrack forgets it, and the server stops listening.
            let memory = Memory::from([(candidate.key(), candidate.known(Instant::now()))]);
            let later = judge(&socket, &[], &Translations::default(), &memory).unwrap();
            assert_eq!(candidate.connection.known_by, KnownBy::Conntrack);
            let remembered = Connection { known_by: KnownBy::EarlierLook, ..candidate.connection };
            assert_eq!(later.connection, remembered);
            assert_eq!(later.is_wanted(Some(&ports)), expected, "{asked}, later");
        }
        let unknown = judge(&socket, &[8000], &Translations::default(), &Memory::new()).unwrap();
        assert!(unknown.is_wanted(Some(&ports)));
    }

    #[test]
    fn a_port_at_another_address_is_not_wanted() {
        let mut ports = Ports::default();
        ports.add([8000], &["10.0.0.1/32".parse().unwrap()]);
        let nothing = Translations::default();
        let wanted = |local: &str, translations: &Translations, listening: &[u16]| {
            let socket = socket(local, CLIENT, State::Established);
            judge(&socket, listening, translations, &Memory::new()).unwrap().is_wanted(Some(&ports))
        };
        assert!(wanted("10.0.0.1:8000", &nothing, &[8000]));
        assert!(!wanted("10.0.0.2:8000", &nothing, &[8000]));
        // What the client asked for counts, wherever the container has its socket.
        let container = socket("172.17.0.2:8000", CLIENT, State::Established);
        let published = translated(&container, CLIENT, 8000);
        assert!(wanted("172.17.0.2:8000", &published, &[8000]));
        let origin = Origin { client: CLIENT.parse().unwrap(), asked: "10.0.0.2:8000".parse().unwrap() };
        let elsewhere =
            [(Ends { peer: container.peer, local: container.local }, origin)].into_iter().collect();
        assert!(!wanted("172.17.0.2:8000", &elsewhere, &[8000]));
    }

    #[test]
    fn loopback_is_no_client() {
        for peer in ["127.0.0.1:4000", "127.9.9.9:4000", "[::1]:4000"] {
            let local = socket("10.0.0.1:8000", peer, State::Established);
            assert!(judge(&local, &[8000], &Translations::default(), &Memory::new()).is_none(), "{peer}");
            let container = socket("172.17.0.2:9000", "172.17.0.1:61000", State::Established);
            let translations = translated(&container, peer, 8000);
            assert!(judge(&container, &[9000], &translations, &Memory::new()).is_none(), "{peer}");
        }
    }

    #[test]
    fn sockets_are_looked_for_where_translations_lead() {
        let asked = |local: &str, port| translated(&socket(local, CLIENT, State::Established), CLIENT, port);
        let ports = Ports::from([8000]);
        let locals = |translations: &Translations, memory: &Memory| local_ports(&ports, translations, memory);
        assert_eq!(locals(&asked("172.17.0.2:9000", 8000), &Memory::new()), BTreeSet::from([8000, 9000]));
        let other = asked("172.17.0.2:9000", 7000);
        assert_eq!(locals(&other, &Memory::new()), BTreeSet::from([8000]));
        let origin = Some(Origin { client: CLIENT.parse().unwrap(), asked: SocketAddr::from((ASKED, 8000)) });
        let memory = Memory::from([((1, 1), Known { origin, local_port: 9001, since: Instant::now() })]);
        assert_eq!(locals(&Translations::default(), &memory), BTreeSet::from([8000, 9001]));
    }
}
