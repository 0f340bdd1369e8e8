//! Interfaces that hand packets to each other: the lowest is guarded, so each packet is judged once.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::control::path;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy(interfaces: &str) -> String {
    format!(
        "[attach]\ninterfaces = [{interfaces}]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    )
}

/// Datagrams of a stranger are judged once each, and none arrives.
fn are_judged_once(guard: &Guard<'_>, from: &Host, to: &str) -> Result<()> {
    const COUNT: u64 = 200;
    let host = guard.host();
    let arrived = UdpCounter::listen(host, 8000)?;
    // So that the neighbour is known, and no datagram waits for it.
    let ping = || from.output("ping", &["-c", "1", "-W", "1", to]).is_ok_and(|(ok, _)| ok);
    ensure!(wait::within(PATIENCE, ping), "{to} does not answer: {}", guard.log());
    let before = guard.counter("web", Reason::NotAllowed)?.packets;
    from.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..COUNT).try_for_each(|_| socket.send_to(b"x", (to, 8000)).map(drop)).map_err(Into::into)
    })?;
    let judged = || guard.counter("web", Reason::NotAllowed).map_or(0, |counter| counter.packets) - before;
    ensure!(wait::within(PATIENCE, || judged() >= COUNT), "{} of {COUNT} are judged", judged());
    ensure!(arrived.settled() == 0, "{} of {COUNT} arrived", arrived.count());
    ensure!(judged() == COUNT, "{} verdicts for {COUNT} datagrams", judged());
    Ok(())
}

/// Set where every kind of device must be there: in the virtual machines of `cargo xtask vm`.
const MUST_HAVE_DEVICES: &str = "GUARD_TEST_DEVICES";

/// Whether this kernel has devices of a kind. Where it has not, the test is not run, and says so.
fn has_devices(host: &Host, kind: &str) -> Result<bool> {
    let carrier = if kind.starts_with("vlan") { "link eth0" } else { "" };
    let made = host.ip(&format!("link add {carrier} name probe0 type {kind}"));
    if let Err(error) = &made {
        ensure!(std::env::var_os(MUST_HAVE_DEVICES).is_none(), "this kernel makes no {kind}: {error:#}");
        println!("NOT RUN: this kernel makes no {kind}: {error:#}");
        eprintln!("NOT RUN: this kernel makes no {kind}");
    }
    let _ = host.ip("link delete probe0");
    Ok(made.is_ok())
}

fn is_attached(host: &Host, interface: &str) -> bool {
    host.output("ip", &["-details", "link", "show", "dev", interface])
        .is_ok_and(|(ok, text)| ok && text.contains("prog/xdp"))
}

fn bridge(host: &Host) -> Result<()> {
    host.ip("link add br0 type bridge mcast_snooping 0")?;
    host.ip("link set br0 address 02:00:00:00:00:01")?;
    host.ip("link set br0 up")?;
    host.ip("address delete 10.77.0.1/16 dev eth0")?;
    host.ip("link set eth0 master br0")?;
    host.ip("address add 10.77.0.1/16 dev br0")
}

fn why(guard: &Guard<'_>, name: &str) -> Result<String> {
    let status: Status = guard.client().get(path::STATUS)?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(status.unguarded.into_iter().find(|open| open.name == name).context("it is told")?.why)
}

#[test]
fn of_a_bridge_and_its_part_the_part_is_guarded_and_a_packet_counts_once() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    bridge(host)?;
    let guard = Guard::start(host, &policy("\"br0\", \"eth0\""))?;
    ensure!(is_attached(host, "eth0") && !is_attached(host, "br0"), "{}", guard.log());
    ensure!(why(&guard, "br0")?.contains("come by eth0, where they are judged"), "{}", guard.log());
    let before = guard.counter("web", Reason::NotAllowed)?.packets;
    // One SYN of a stranger, sent once.
    let url = format!("http://{}:8000/", SERVER[0]);
    let dropped = || guard.counter("web", Reason::NotAllowed).map_or(0, |counter| counter.packets) - before;
    scene.stranger.output("curl", &["-s", "-m", "1", &url])?;
    ensure!(dropped() >= 1);
    let allowed = guard.counter("web", Reason::Allowed)?.packets;
    scene.client.output("curl", &["-s", "-m", "2", &url])?;
    // The server has no listener: one SYN, which gets a reset.
    let now = || guard.counter("web", Reason::Allowed).map_or(0, |counter| counter.packets);
    ensure!(wait::within(PATIENCE, || now() > allowed), "the client's SYN is judged");
    ensure!(now() == allowed + 1, "{} packets for one", now() - allowed);
    Ok(())
}

#[test]
fn a_macvlan_is_guarded_by_its_carrier() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    host.ip("link add mac0 link eth0 type macvlan mode bridge")?;
    host.ip("address add 10.77.0.9/16 dev mac0")?;
    host.ip("link set mac0 up")?;
    let guard = Guard::start(host, &policy("\"eth0\", \"mac*\""))?;
    ensure!(is_attached(host, "eth0") && !is_attached(host, "mac0"), "{}", guard.log());
    ensure!(why(&guard, "mac0")?.contains("come by eth0, where they are judged"), "{}", guard.log());
    are_judged_once(&guard, &scene.stranger, "10.77.0.9")
}

#[test]
fn of_a_macvlan_over_a_bridge_the_parts_of_the_bridge_are_guarded() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    bridge(host)?;
    host.ip("link add mac0 link br0 type macvlan mode bridge")?;
    host.ip("address add 10.77.0.9/16 dev mac0")?;
    host.ip("link set mac0 up")?;
    let guard = Guard::start(host, &policy("\"mac0\", \"br0\", \"eth0\""))?;
    ensure!(is_attached(host, "eth0"), "{}", guard.log());
    ensure!(!is_attached(host, "br0") && !is_attached(host, "mac0"), "{}", guard.log());
    are_judged_once(&guard, &scene.stranger, "10.77.0.9")?;
    are_judged_once(&guard, &scene.stranger, SERVER[0])
}

#[test]
fn a_vlan_is_guarded_by_its_carrier() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    if !has_devices(host, "vlan id 9")? {
        return Ok(());
    }
    for (end, address) in [(host, "10.78.0.1/24"), (&scene.stranger, "10.78.0.3/24")] {
        end.ip("link add link eth0 name eth0.5 type vlan id 5")?;
        end.ip(&format!("address add {address} dev eth0.5"))?;
        end.ip("link set eth0.5 up")?;
    }
    let guard = Guard::start(host, &policy("\"eth0\", \"eth0.5\""))?;
    ensure!(is_attached(host, "eth0") && !is_attached(host, "eth0.5"), "{}", guard.log());
    ensure!(why(&guard, "eth0.5")?.contains("come by eth0, where they are judged"), "{}", guard.log());
    are_judged_once(&guard, &scene.stranger, "10.78.0.1")
}

#[test]
fn of_a_bond_and_a_member_each_member_is_guarded() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    if !has_devices(host, "bond")? {
        return Ok(());
    }
    host.ip("link add bond0 type bond mode active-backup miimon 100")?;
    for wire in 0..2 {
        host.wire(&format!("nic{wire}"), &scene.stranger, &format!("far{wire}"))?;
        host.ip(&format!("link set nic{wire} down"))?;
        host.ip(&format!("link set nic{wire} master bond0"))?;
        scene.stranger.ip(&format!("link set far{wire} up"))?;
    }
    host.ip("link set bond0 up")?;
    host.ip("address add 10.79.0.1/24 dev bond0")?;
    scene.stranger.ip("address add 10.79.0.3/24 dev far0")?;
    let guard = Guard::start(host, &policy("\"bond0\", \"nic0\""))?;
    ensure!(is_attached(host, "nic0") && is_attached(host, "nic1"), "{}", guard.log());
    ensure!(!is_attached(host, "bond0"), "{}", guard.log());
    are_judged_once(&guard, &scene.stranger, "10.79.0.1")
}

#[test]
fn a_bridge_alone_is_guarded_and_each_part_once_one_is_asked_for() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    bridge(host)?;
    host.ip("link add guest type veth peer name guest-peer")?;
    host.ip("link set guest master br0 up")?;
    let guard = Guard::start_watching(host, &policy("\"br0\""), false)?;
    ensure!(is_attached(host, "br0") && !is_attached(host, "eth0") && !is_attached(host, "guest"));
    std::fs::write(guard.policy_file(), policy("\"br0\", \"eth0\""))?;
    let (code, _, said) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{said}");
    let lowered = || is_attached(host, "eth0") && is_attached(host, "guest") && !is_attached(host, "br0");
    ensure!(wait::within(PATIENCE, lowered), "{}", guard.log());
    // An interface that becomes a part of the bridge later.
    host.ip("link add guest2 type veth peer name guest2-peer")?;
    host.ip("link set guest2 master br0 up")?;
    ensure!(wait::within(PATIENCE, || is_attached(host, "guest2")), "{}", guard.log());
    Ok(())
}
