//! Which connections are seen, and what it costs.

use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, id};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use guard_tests::{cpu_time, wait};
use guard_userspace::sockets::{Note, Ports, Sockets, State};

use super::network::*;

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
        ensure!((found.local, found.asked) == (*to, *to), "{name}: {found:?}");
        ensure!(found.state == State::Established && found.namespace == inode(host)?, "{name}: {found:?}");
    }
    let found = sockets.list(&set(&[8000]), &everyone())?.connections;
    ensure!(found.iter().all(|found| !found.client.ip().is_loopback()), "{found:?}, {loopback:?}");
    ensure!(sockets.list(&Ports::default(), &everyone())?.connections.is_empty(), "no ports, no connections");
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
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
    ensure!(killed.sockets >= 4 && killed.failed.is_empty(), "{killed:?}");
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
    let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000, 40000])), &everyone())?;
    ensure!(killed.sockets == 2 && pairs.iter_mut().all(Pair::is_reset), "{killed:?}");
    Ok(())
}

#[test]
fn a_namespace_that_ends_is_let_go_of() -> Result<()> {
    let Scene { host, container, client, other, number, _network } = Scene::new(8)?;
    let mut sockets = sockets_of(&host)?;
    let server = listen(&container, 8000)?;
    let pair = Pair::open(&client, SocketAddr::new(inside(number, CONTAINER)[0], 8000), &server)?;
    let (found, address) = (sockets.list(&set(&[8000]), &everyone())?, pair.address()?);
    ensure!(found.connections.iter().any(|found| found.client == address), "{found:?}");
    // Its sockets keep a namespace alive, and so do those that guard has in it.
    drop((pair, server, container));
    let has_wire = || host.output("ip", &["link", "show", "dev", "to-container"]).is_ok_and(|(ok, _)| ok);
    let gone = wait::within(PATIENCE, || sockets.list(&set(&[8000]), &everyone()).is_ok() && !has_wire());
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
        let listing = sockets.list(&set(&[8000]), &everyone())?;
        ensure!(listing.connections.iter().map(|found| found.client).eq([address]), "{listing:?}");
        let notes: Vec<_> = listing.notes.iter().map(Note::to_string).collect();
        for (note, capability) in notes.iter().zip(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]) {
            ensure!(note.contains(&format!("{capability} is missing")), "{notes:?}");
        }
        ensure!(notes.len() == 2, "{notes:?}");
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
        let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
        let [failure] = killed.failed.as_slice() else { anyhow::bail!("{killed:?}") };
        ensure!(killed.sockets == 0 && failure.reason.contains("CAP_NET_ADMIN"), "{killed:?}");
        caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
        let killed = sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone())?;
        ensure!(killed.sockets == 1 && killed.failed.is_empty(), "{killed:?}");
        Ok(())
    })?;
    ensure!(seen.is_reset() && unseen.goes_on());
    Ok(())
}

#[test]
fn a_look_at_thousands_of_sockets_takes_as_much_for_each_as_one_at_hundreds() -> Result<()> {
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
    let mut look = |what, expected| -> Result<Duration> {
        let (found, took) = cpu_time::of(|| scene.list(&mut sockets, &[8000]))?;
        let found = found?.len();
        eprintln!("{what}: {found} sockets in {took:?} of a CPU");
        ensure!(found == expected, "{what}: {found} of {expected}");
        Ok(took)
    };
    let mut pairs = open(COUNT / 10, 8000, &server)?;
    look("first look, which opens the namespaces", COUNT / 10)?;
    let few = look("next look", COUNT / 10)?;
    pairs.extend(open(COUNT - COUNT / 10, 8000, &server)?);
    let _others = open(COUNT / 5, 8001, &unguarded)?;
    let many = look("ten times as many", COUNT)?;
    // What grows with the square takes a hundred times as much.
    ensure!(many < 30 * few, "{few:?} for {}, {many:?} for {COUNT}", COUNT / 10);
    let (killed, took) = cpu_time::of(|| sockets.kill(&scene.prefixes(), Some(&set(&[8000])), &everyone()))?;
    let killed = killed?;
    eprintln!("{} sockets ended in {took:?} of a CPU", killed.sockets);
    ensure!(killed.sockets == COUNT && killed.failed.is_empty(), "{killed:?}");
    Ok(())
}
