//! The network of these tests, and connections in it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::id;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::net::{Host, Network};
use guard_tests::wait;
use guard_userspace::sockets::{Connection, Counted, Listing, Note, Ports, Sockets};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockname, socket};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const FAMILIES: [usize; 2] = [0, 1];

pub(crate) struct Scene {
    pub host: Host,
    pub client: Host,
    pub other: Host,
    pub container: Host,
    pub number: u8,
    pub _network: Network,
}

/// The last parts of addresses.
pub(crate) const HOST: u8 = 1;
pub(crate) const CLIENT: u8 = 2;
pub(crate) const OTHER: u8 = 3;
/// In the network of containers, where the host is 1 too.
pub(crate) const CONTAINER: u8 = 2;

impl Scene {
    pub(crate) fn new(number: u8) -> Result<Self> {
        let network = Network::new()?;
        let host = |name, last| {
            let [four, six] = outside(number, last);
            network.host(name, last, &[&format!("{four}/24"), &format!("{six}/64")])
        };
        let (host, client, other) = (host("host", HOST)?, host("client", CLIENT)?, host("other", OTHER)?);
        let container = network.host("container", 4, &[])?;
        container.ip("link delete eth0")?;
        host.ip("link add docker0 type bridge")?;
        host.wire("to-container", &container, "eth0")?;
        host.ip("link set to-container master docker0 up")?;
        host.ip("link set docker0 up")?;
        container.ip("link set eth0 up")?;
        for (here, device, last) in [(&host, "docker0", 1), (&container, "eth0", CONTAINER)] {
            let [four, six] = inside(number, last);
            here.ip(&format!("address add {four}/24 dev {device}"))?;
            here.ip(&format!("address add {six}/64 dev {device} nodad"))?;
        }
        host.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("cannot forward")
        })?;
        for gateway in inside(number, 1) {
            container.ip(&format!("route add default via {gateway}"))?;
        }
        for from in [&client, &other] {
            for (family, bits) in [(0, 24), (1, 64)] {
                let (net, gateway) =
                    (IpNet::new(inside(number, 0)[family], bits)?, outside(number, HOST)[family]);
                from.ip(&format!("route add {net} via {gateway}"))?;
            }
        }
        Ok(Self { host, client, other, container, number, _network: network })
    }

    pub(crate) fn host_at(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(outside(self.number, HOST)[family], port)
    }

    pub(crate) fn container_at(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(inside(self.number, CONTAINER)[family], port)
    }

    /// The prefixes of the client.
    pub(crate) fn prefixes(&self) -> [IpNet; 2] {
        outside(self.number, CLIENT).map(IpNet::from)
    }

    /// A container's port 9000 and 8000, published under others, in both families.
    pub(crate) fn publish(&self) -> Result<()> {
        let (four, six) = (self.container_at(0, 0).ip(), self.container_at(1, 0).ip());
        let rules = format!(
            "table inet docker {{
                chain out {{
                    type nat hook postrouting priority 100;
                    meta l4proto tcp ct original proto-dst 8003 masquerade
                }}
                chain in {{
                    type nat hook prerouting priority -100;
                    fib daddr type local meta nfproto ipv4 tcp dport {{ 8000, 8001, 8003 }} dnat ip to {four}:9000
                    fib daddr type local meta nfproto ipv6 tcp dport {{ 8000, 8001, 8003 }} dnat ip6 to [{six}]:9000
                    fib daddr type local meta nfproto ipv4 tcp dport 7000 dnat ip to {four}:8000
                    fib daddr type local meta nfproto ipv6 tcp dport 7000 dnat ip6 to [{six}]:8000
                    tcp dport 8005 redirect to 9005
                    tcp dport 7005 redirect to 8002
                }}
            }}"
        );
        nft(&self.host, &rules)
    }

    /// The connections of this scene.
    pub(crate) fn list(&self, sockets: &mut Sockets, ports: &[u16]) -> Result<Vec<Connection>> {
        let Listing { connections, notes, .. } =
            sockets.list(&ports.iter().copied().collect(), &everyone())?;
        ensure!(notes.iter().all(is_of_this_machine), "{notes:?}");
        let hosts = [HOST, CLIENT, OTHER].map(|last| outside(self.number, last));
        let inside = [1, CONTAINER].map(|last| inside(self.number, last));
        let ours = [hosts.as_flattened(), inside.as_flattened()].concat();
        Ok(connections.into_iter().filter(|found| ours.contains(&found.client.ip())).collect())
    }
}

/// Where everybody came through the guard, which has counted nothing.
pub(crate) fn everyone() -> Counted<'static> {
    Counted::nothing(|_| true)
}

/// There may be processes that no other may look at, whatever its capabilities.
pub(crate) fn is_of_this_machine(note: &Note) -> bool {
    match note {
        Note::HiddenProcesses { .. } => true,
        Note::NotEntered { .. }
        | Note::NotListed { .. }
        | Note::NotVisited { .. }
        | Note::NoMultipath
        | Note::NoTranslations { .. } => false,
    }
}

/// Addresses on the switch.
pub(crate) fn outside(number: u8, last: u8) -> [IpAddr; 2] {
    let [.., high, low] = id().to_be_bytes();
    let run = u16::from_be_bytes([high, low]);
    let six = [0xfd88, number.into(), run, 0, 0, 0, 0, last.into()];
    [IpAddr::from([10, 160 + number, low, last]), IpAddr::from(six)]
}

/// Addresses on the bridge of the host.
pub(crate) fn inside(number: u8, last: u8) -> [IpAddr; 2] {
    let six = [0xfd89, number.into(), 0, 0, 0, 0, 0, last.into()];
    [IpAddr::from([172, 30, number, last]), IpAddr::from(six)]
}

pub(crate) fn nft(host: &Host, rules: &str) -> Result<()> {
    let (ok, text) = host.output("nft", &[rules])?;
    ensure!(ok, "{text}");
    Ok(())
}

pub(crate) fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    let listener = host.enter(|| TcpListener::bind(("::", port)).context("cannot listen"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(crate) fn sockets_of(host: &Host) -> Result<Sockets> {
    host.enter(|| Ok(Sockets::new()?))
}

pub(crate) fn inode(host: &Host) -> Result<u64> {
    host.enter(|| Ok(fs::metadata("/proc/thread-self/ns/net")?.ino()))
}

pub(crate) fn set(ports: &[u16]) -> Ports {
    ports.iter().copied().collect()
}

/// Both ends of a connection.
pub(crate) struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Pair {
    pub(crate) fn open(from: &Host, to: SocketAddr, listener: &TcpListener) -> Result<Self> {
        let client = from.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?));
        let client = client.with_context(|| format!("cannot connect to {to}"))?;
        let mut server = None;
        wait::within(PATIENCE, || {
            server = listener.accept().ok();
            server.is_some()
        });
        let (server, _) = server.with_context(|| format!("{to} leads to another listener"))?;
        server.set_nonblocking(false)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server })
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    pub(crate) fn goes_on(&mut self) -> bool {
        let mut byte = [0];
        let mut pass = || -> std::io::Result<()> {
            self.server.write_all(b"x")?;
            self.client.read_exact(&mut byte)?;
            self.client.write_all(b"y")?;
            self.server.read_exact(&mut byte)
        };
        pass().is_ok()
    }

    /// Whether both ends have been told that it is over.
    pub(crate) fn is_reset(&mut self) -> bool {
        let end = |stream: &mut TcpStream| stream.read(&mut [0]).map_err(|error| error.kind());
        end(&mut self.server) == Err(ErrorKind::ConnectionAborted)
            && end(&mut self.client) == Err(ErrorKind::ConnectionReset)
    }
}

/// A connection of the client to port 8000 whose handshake never ends: it does not hear the host's answers.
pub(crate) fn half_open(scene: &Scene) -> Result<(SocketAddr, OwnedFd)> {
    nft(
        &scene.client,
        "table inet deaf { chain in { type filter hook input priority 0; tcp flags & (syn | ack) == (syn | ack) drop; }; }",
    )?;
    scene.client.enter(|| {
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
        let host = SockaddrStorage::from(scene.host_at(0, 8000));
        ensure!(connect(client.as_raw_fd(), &host) == Err(Errno::EINPROGRESS));
        let name: SockaddrStorage = getsockname(client.as_raw_fd())?;
        let name = name.as_sockaddr_in().context("another family")?;
        Ok((SocketAddrV4::from(*name).into(), client))
    })
}
