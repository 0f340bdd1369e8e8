//! The sockets of clients in every network namespace: which are seen, under which port, and that they end.
//!
//! ```text
//!   client ──┐
//!            ├── switch ── host ── docker0 (a bridge) ── container        nftables on the host publishes ports of the container
//!   other  ──┘
//! ```
//!
//! What is tested looks at all namespaces of the machine, so every test has addresses that no other has.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, id};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use guard_tests::net::{Host, Network};
use guard_tests::{cpu_time, wait};
use guard_userspace::sockets::{Connection, Listing, Note, Sockets, State};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockname, socket};

const PATIENCE: Duration = Duration::from_secs(5);
const FAMILIES: [usize; 2] = [0, 1];

struct Scene {
    host: Host,
    client: Host,
    other: Host,
    container: Host,
    number: u8,
    _network: Network,
}

/// The last parts of addresses.
const HOST: u8 = 1;
const CLIENT: u8 = 2;
const OTHER: u8 = 3;
/// In the network of containers, where the host is 1 too.
const CONTAINER: u8 = 2;

impl Scene {
    fn new(number: u8) -> Result<Self> {
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

    fn host_at(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(outside(self.number, HOST)[family], port)
    }

    fn container_at(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(inside(self.number, CONTAINER)[family], port)
    }

    /// The prefixes of the client.
    fn prefixes(&self) -> [IpNet; 2] {
        outside(self.number, CLIENT).map(IpNet::from)
    }

    /// A container's port 9000 and 8000, published under others, in both families.
    fn publish(&self) -> Result<()> {
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
    fn list(&self, sockets: &mut Sockets, ports: &[u16]) -> Result<Vec<Connection>> {
        let Listing { connections, notes, .. } = sockets.list(&ports.iter().copied().collect(), &|_| true)?;
        ensure!(notes.iter().all(is_of_this_machine), "{notes:?}");
        let hosts = [HOST, CLIENT, OTHER].map(|last| outside(self.number, last));
        let inside = [1, CONTAINER].map(|last| inside(self.number, last));
        let ours = [hosts.as_flattened(), inside.as_flattened()].concat();
        Ok(connections.into_iter().filter(|found| ours.contains(&found.client.ip())).collect())
    }
}

/// There may be processes that no other may look at, whatever its capabilities.
fn is_of_this_machine(note: &Note) -> bool {
    match note {
        Note::HiddenProcesses { .. } => true,
        Note::NotEntered { .. } | Note::NotListed { .. } | Note::NoTranslations { .. } => false,
    }
}

/// Addresses on the switch.
fn outside(number: u8, last: u8) -> [IpAddr; 2] {
    let [.., high, low] = id().to_be_bytes();
    let run = u16::from_be_bytes([high, low]);
    let six = [0xfd88, number.into(), run, 0, 0, 0, 0, last.into()];
    [IpAddr::from([10, 160 + number, low, last]), IpAddr::from(six)]
}

/// Addresses on the bridge of the host.
fn inside(number: u8, last: u8) -> [IpAddr; 2] {
    let six = [0xfd89, number.into(), 0, 0, 0, 0, 0, last.into()];
    [IpAddr::from([172, 30, number, last]), IpAddr::from(six)]
}

fn nft(host: &Host, rules: &str) -> Result<()> {
    let (ok, text) = host.output("nft", &[rules])?;
    ensure!(ok, "{text}");
    Ok(())
}

fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    let listener = host.enter(|| TcpListener::bind(("::", port)).context("cannot listen"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn sockets_of(host: &Host) -> Result<Sockets> {
    host.enter(|| Ok(Sockets::new()?))
}

fn inode(host: &Host) -> Result<u64> {
    host.enter(|| Ok(fs::metadata("/proc/thread-self/ns/net")?.ino()))
}

fn set(ports: &[u16]) -> BTreeSet<u16> {
    ports.iter().copied().collect()
}

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn open(from: &Host, to: SocketAddr, listener: &TcpListener) -> Result<Self> {
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

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    fn goes_on(&mut self) -> bool {
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
    fn is_reset(&mut self) -> bool {
        let end = |stream: &mut TcpStream| stream.read(&mut [0]).map_err(|error| error.kind());
        end(&mut self.server) == Err(ErrorKind::ConnectionAborted)
            && end(&mut self.client) == Err(ErrorKind::ConnectionReset)
    }
}

/// A connection of the client to port 8000 whose handshake never ends: it does not hear the host's answers.
fn half_open(scene: &Scene) -> Result<(SocketAddr, OwnedFd)> {
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

#[test]
fn clients_are_seen_in_all_namespaces_under_ipv4_and_ipv6_addresses() -> Result<()> {
    let scene = Scene::new(1)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let four = scene.host.enter(|| Ok(TcpListener::bind(scene.host_at(0, 8001))?))?;
    let unwanted = listen(&scene.host, 8002)?;
    let cases = [
        ("mapped", scene.host_at(0, 8000), &here, &scene.host),
        ("IPv6", scene.host_at(1, 8000), &here, &scene.host),
        ("IPv4", scene.host_at(0, 8001), &four, &scene.host),
        ("mapped, in a container", scene.container_at(0, 8000), &there, &scene.container),
        ("IPv6, in a container", scene.container_at(1, 8000), &there, &scene.container),
    ];
    let pairs = cases.iter().map(|(_, to, listener, _)| Pair::open(&scene.client, *to, listener));
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    let _unwanted = Pair::open(&scene.client, scene.host_at(0, 8002), &unwanted)?;
    let loopback = scene.host.enter(|| Ok(TcpStream::connect(("127.0.0.1", 8000))?))?;
    let found = scene.list(&mut sockets, &[8000, 8001])?;
    ensure!(found.len() == cases.len(), "{found:?}");
    for ((name, to, _, host), pair) in cases.iter().zip(&pairs) {
        let client = pair.address()?;
        let found = found.iter().find(|found| found.client == client).context(*name)?;
        ensure!((found.local, found.service_port) == (*to, to.port()), "{name}: {found:?}");
        ensure!(found.state == State::Established && found.namespace == inode(host)?, "{name}: {found:?}");
    }
    let everyone = sockets.list(&set(&[8000]), &|_| true)?.connections;
    ensure!(everyone.iter().all(|found| !found.client.ip().is_loopback()), "{everyone:?}, {loopback:?}");
    ensure!(sockets.list(&BTreeSet::new(), &|_| true)?.connections.is_empty(), "no ports, no connections");
    // One port in each of many ranges, so many that the kernel gets no filter.
    let scattered: Vec<u16> = (0..400).map(|number| 8000 + 4 * number).collect();
    ensure!(scene.list(&mut sockets, &scattered)?.len() == 4);
    Ok(())
}

#[test]
fn states_are_told_apart() -> Result<()> {
    let scene = Scene::new(2)?;
    let mut sockets = sockets_of(&scene.host)?;
    let listener = listen(&scene.host, 8000)?;
    let open = || Pair::open(&scene.client, scene.host_at(0, 8000), &listener);
    let (established, left, leaving, closed) = (open()?, open()?, open()?, open()?);
    left.client.shutdown(Shutdown::Write)?;
    leaving.server.shutdown(Shutdown::Write)?;
    // The kernel keeps a stub of it for the peer, in a state of the same name.
    let Pair { client: _still_open, server } = closed;
    drop(server);
    let (half_open, _socket) = half_open(&scene)?;
    let expected = BTreeSet::from([
        (established.address()?, State::Established),
        (left.address()?, State::ClosedByPeer),
        (leaving.address()?, State::Closing),
        (half_open, State::HalfOpen),
    ]);
    let mut found = BTreeSet::new();
    let are_found = wait::within(PATIENCE, || {
        let listed = scene.list(&mut sockets, &[8000]).unwrap_or_default();
        found = listed.iter().map(|found| (found.client, found.state)).collect();
        found == expected
    });
    ensure!(are_found, "{found:?} instead of {expected:?}");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
    ensure!(killed.sockets >= 4 && killed.failed.is_empty(), "{killed:?}");
    Ok(())
}

#[test]
fn a_half_open_connection_ends_too() -> Result<()> {
    let scene = Scene::new(3)?;
    let mut sockets = sockets_of(&scene.host)?;
    let _listener = listen(&scene.host, 8000)?;
    let (_, client) = half_open(&scene)?;
    let mut found = Vec::new();
    let seen = wait::within(PATIENCE, || {
        found = scene.list(&mut sockets, &[8000]).unwrap_or_default();
        !found.is_empty()
    });
    ensure!(seen && found.iter().all(|found| found.state == State::HalfOpen), "{found:?}");
    // It would try again.
    drop(client);
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
    ensure!(killed.sockets == 1 && killed.failed.is_empty(), "{killed:?}");
    ensure!(scene.list(&mut sockets, &[8000])?.is_empty());
    Ok(())
}

#[test]
fn a_kill_ends_the_streams_of_one_client_on_these_ports_in_every_namespace() -> Result<()> {
    let scene = Scene::new(4)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let admin = listen(&scene.host, 22)?;
    let targets = FAMILIES
        .map(|family| [(&here, scene.host_at(family, 8000)), (&there, scene.container_at(family, 8000))]);
    let open = |from| -> Result<Vec<Pair>> {
        targets.as_flattened().iter().map(|(listener, to)| Pair::open(from, *to, listener)).collect()
    };
    let (mut theirs, mut others) = (open(&scene.client)?, open(&scene.other)?);
    others.push(Pair::open(&scene.client, scene.host_at(0, 22), &admin)?);
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
    ensure!(killed.sockets == 4 && killed.failed.is_empty(), "{killed:?}");
    ensure!(theirs.iter_mut().all(Pair::is_reset), "the client's");
    ensure!(others.iter_mut().all(Pair::goes_on), "of another client, and to another port");
    let again = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
    ensure!(again.sockets == 0 && again.failed.is_empty(), "nothing is left: {again:?}");
    let all = sockets.kill(
        &[IpNet::new(outside(4, OTHER)[0], 31)?.trunc(), IpNet::new(outside(4, CLIENT)[1], 127)?],
        None,
        &|_| true,
    )?;
    ensure!(all.sockets == 5 && all.failed.is_empty(), "whole prefixes, all ports: {all:?}");
    ensure!(others.iter_mut().all(Pair::is_reset));
    Ok(())
}

#[test]
fn connections_that_the_host_opened_end_only_with_all_ports() -> Result<()> {
    let scene = Scene::new(5)?;
    let mut sockets = sockets_of(&scene.host)?;
    let listener = listen(&scene.client, 8000)?;
    let mut pair = Pair::open(&scene.host, SocketAddr::new(outside(5, CLIENT)[0], 8000), &listener)?;
    // A guarded port among those that connections going out get by chance.
    let ports = set(&[8000, pair.address()?.port()]);
    let killed = sockets.kill(&scene.prefixes(), Some(&ports), &|_| true)?;
    ensure!(killed.sockets == 0 && pair.goes_on(), "{killed:?}");
    let killed = sockets.kill(&scene.prefixes(), None, &|_| true)?;
    ensure!(killed.sockets == 1 && !pair.goes_on(), "{killed:?}");
    Ok(())
}

#[test]
fn a_published_port_is_the_one_that_the_client_asked_for() -> Result<()> {
    let scene = Scene::new(6)?;
    scene.publish()?;
    let mut sockets = sockets_of(&scene.host)?;
    let (nine, eight) = (listen(&scene.container, 9000)?, listen(&scene.container, 8000)?);
    let (redirected, own) = (listen(&scene.host, 9005)?, listen(&scene.host, 8002)?);
    let (mut wanted, mut spared) = (Vec::new(), Vec::new());
    for family in FAMILIES {
        for (asked, listener) in [(8000, &nine), (8003, &nine), (8005, &redirected), (8002, &own)] {
            let pair = Pair::open(&scene.client, scene.host_at(family, asked), listener)?;
            wanted.push((asked, listener.local_addr()?.port(), pair));
        }
        // Their sockets have ports that are guarded, or that a guarded one leads to; they were asked for under others.
        for (asked, listener) in [(8001, &nine), (7000, &eight), (7005, &own)] {
            spared.push(Pair::open(&scene.client, scene.host_at(family, asked), listener)?);
        }
        spared.push(Pair::open(&scene.client, scene.container_at(family, 9000), &nine)?);
        spared.push(Pair::open(&scene.other, scene.host_at(family, 8000), &nine)?);
        // Straight to the container: nobody translated it.
        wanted.push((8000, 8000, Pair::open(&scene.client, scene.container_at(family, 8000), &eight)?));
    }
    let ports = [8000, 8002, 8003, 8005];
    let found = scene.list(&mut sockets, &ports)?;
    ensure!(found.len() == wanted.len() + 2, "{found:#?}");
    for (asked, port, pair) in &wanted {
        let client = pair.address()?;
        let found = found.iter().find(|found| found.client == client);
        let found = found.with_context(|| format!("{asked} to {port} is missing: {found:#?}"))?;
        ensure!((found.service_port, found.local.port()) == (*asked, *port), "{found:?}");
    }
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&ports)), &|_| true)?;
    ensure!(killed.sockets == wanted.len() && killed.failed.is_empty(), "{killed:?}");
    ensure!(wanted.iter_mut().all(|(_, _, pair)| pair.is_reset()));
    ensure!(spared.iter_mut().all(Pair::goes_on));
    Ok(())
}

#[test]
fn containers_that_are_not_reached_through_this_host_are_left_alone() -> Result<()> {
    let scene = Scene::new(12)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let mut own = Pair::open(&scene.client, scene.host_at(0, 8000), &here)?;
    let mut routed = Pair::open(&scene.client, scene.container_at(0, 8000), &there)?;
    let listing = sockets.list(&set(&[8000]), &|_| false)?;
    let is_listed = |pair: &Pair| -> Result<bool> {
        let address = pair.address()?;
        Ok(listing.connections.iter().any(|found| found.client == address))
    };
    ensure!(is_listed(&own)? && !is_listed(&routed)?, "{listing:?}");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| false)?;
    ensure!(killed.sockets == 1 && own.is_reset() && routed.goes_on(), "{killed:?}");
    let address = routed.address()?;
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|client| client == address)?;
    ensure!(killed.sockets == 1 && routed.is_reset(), "{killed:?}");
    Ok(())
}

#[test]
fn what_conntrack_forgets_is_remembered() -> Result<()> {
    let scene = Scene::new(7)?;
    scene.publish()?;
    let mut sockets = sockets_of(&scene.host)?;
    let nine = listen(&scene.container, 9000)?;
    let pair = Pair::open(&scene.client, scene.host_at(0, 8000), &nine)?;
    let before = scene.list(&mut sockets, &[8000])?;
    ensure!(before.len() == 1 && before[0].service_port == 8000, "{before:?}");
    scene.host.enter(|| {
        fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", "1").context("no conntrack")
    })?;
    pair.client.shutdown(Shutdown::Write)?;
    let forgotten = wait::within(PATIENCE, || {
        let mut new = sockets_of(&scene.host);
        new.as_mut().is_ok_and(|new| scene.list(new, &[8000]).is_ok_and(|found| found.is_empty()))
    });
    ensure!(forgotten, "conntrack keeps it");
    let after = scene.list(&mut sockets, &[8000])?;
    let expected = Connection { state: State::ClosedByPeer, ..before[0].clone() };
    ensure!(after == [expected], "{after:?}");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
    ensure!(killed.sockets == 1, "{killed:?}");
    ensure!(scene.list(&mut sockets, &[8000])?.is_empty());
    Ok(())
}

#[test]
fn connections_of_a_server_that_comes_later_and_stops_listening_are_seen() -> Result<()> {
    let scene = Scene::new(11)?;
    let mut sockets = sockets_of(&scene.host)?;
    ensure!(scene.list(&mut sockets, &[8000, 40000])?.is_empty(), "all namespaces are looked through once");
    // One port is among those of connections going out.
    let servers = [listen(&scene.container, 8000)?, listen(&scene.container, 40000)?];
    let open = |(listener, port): (&TcpListener, _)| {
        Pair::open(&scene.client, scene.container_at(0, port), listener)
    };
    let mut pairs = servers.iter().zip([8000, 40000]).map(open).collect::<Result<Vec<_>>>()?;
    ensure!(scene.list(&mut sockets, &[8000, 40000])?.len() == 2, "servers that came later");
    drop(servers);
    ensure!(scene.list(&mut sockets, &[8000, 40000])?.len() == 2, "they no longer listen");
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000, 40000])), &|_| true)?;
    ensure!(killed.sockets == 2 && pairs.iter_mut().all(Pair::is_reset), "{killed:?}");
    Ok(())
}

#[test]
fn a_namespace_that_ends_is_let_go_of() -> Result<()> {
    let Scene { host, container, client, other, number, _network } = Scene::new(8)?;
    let mut sockets = sockets_of(&host)?;
    let server = listen(&container, 8000)?;
    let pair = Pair::open(&client, SocketAddr::new(inside(number, CONTAINER)[0], 8000), &server)?;
    let (found, address) = (sockets.list(&set(&[8000]), &|_| true)?, pair.address()?);
    ensure!(found.connections.iter().any(|found| found.client == address), "{found:?}");
    // Its sockets keep a namespace alive, and so do those that guard has in it.
    drop((pair, server, container));
    let has_wire = || host.output("ip", &["link", "show", "dev", "to-container"]).is_ok_and(|(ok, _)| ok);
    let gone = wait::within(PATIENCE, || sockets.list(&set(&[8000]), &|_| true).is_ok() && !has_wire());
    ensure!(gone, "its interface is still there");
    drop(other);
    Ok(())
}

#[test]
fn without_capabilities_the_own_namespace_is_seen_and_the_rest_is_said() -> Result<()> {
    let scene = Scene::new(9)?;
    let (here, there) = (listen(&scene.host, 8000)?, listen(&scene.container, 8000)?);
    let mut seen = Pair::open(&scene.client, scene.host_at(0, 8000), &here)?;
    let mut unseen = Pair::open(&scene.client, scene.container_at(0, 8000), &there)?;
    let address = seen.address()?;
    // Capabilities belong to a thread.
    scene.host.enter(|| {
        let mut sockets = Sockets::new()?;
        for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE] {
            caps::drop(None, CapSet::Effective, capability)?;
        }
        let listing = sockets.list(&set(&[8000]), &|_| true)?;
        ensure!(listing.connections.iter().map(|found| found.client).eq([address]), "{listing:?}");
        let notes: Vec<_> = listing.notes.iter().map(Note::to_string).collect();
        for (note, capability) in notes.iter().zip(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]) {
            ensure!(note.contains(&format!("{capability} is missing")), "{notes:?}");
        }
        ensure!(notes.len() == 2, "{notes:?}");
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
        let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
        let [failure] = killed.failed.as_slice() else { anyhow::bail!("{killed:?}") };
        ensure!(killed.sockets == 0 && failure.reason.contains("CAP_NET_ADMIN"), "{killed:?}");
        caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
        let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true)?;
        ensure!(killed.sockets == 1 && killed.failed.is_empty(), "{killed:?}");
        Ok(())
    })?;
    ensure!(seen.is_reset() && unseen.goes_on());
    Ok(())
}

#[test]
fn thousands_of_sockets_take_milliseconds() -> Result<()> {
    const COUNT: usize = 5000;
    let raised =
        Command::new("prlimit").args(["--nofile=20000:20000", "--pid", &id().to_string()]).status()?;
    ensure!(raised.success(), "cannot raise the limit of open files");
    let scene = Scene::new(10)?;
    let mut sockets = sockets_of(&scene.host)?;
    let (server, unguarded) = (listen(&scene.container, 8000)?, listen(&scene.container, 8001)?);
    let open = |count, port, listener| -> Result<Vec<Pair>> {
        let to = scene.container_at(0, port);
        (0..count).map(|_| Pair::open(&scene.client, to, listener)).collect()
    };
    let _pairs = open(COUNT, 8000, &server)?;
    let _others = open(COUNT / 5, 8001, &unguarded)?;
    for what in ["first look, which opens the namespaces", "next look"] {
        let (found, took) = cpu_time::of(|| scene.list(&mut sockets, &[8000]))?;
        let found = found?.len();
        eprintln!("{what}: {found} sockets in {took:?} of a CPU");
        ensure!(found == COUNT && took < Duration::from_secs(1), "{what}: {found} in {took:?}");
    }
    let (killed, took) = cpu_time::of(|| sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &|_| true))?;
    let killed = killed?;
    eprintln!("{} sockets ended in {took:?} of a CPU", killed.sockets);
    ensure!(killed.sockets == COUNT && killed.failed.is_empty(), "{killed:?}");
    Ok(())
}
