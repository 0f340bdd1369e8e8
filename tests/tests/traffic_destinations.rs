//! A host that routes to a guest: a service is what is for its destinations.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(30);
/// Behind the server, on a wire of their own.
const GUEST: [&str; 2] = ["10.88.0.2", "fd00:88::2"];
const GUEST_NUMBER: u8 = 9;

/// A guest behind the server, to which the others find the way.
fn guest(scene: &Scene) -> Result<Host> {
    let guest = scene.network.host("guest", GUEST_NUMBER, &[])?;
    let server = &scene.server;
    server.wire("tap0", &guest, "eth1")?;
    for (host, interface, addresses) in [
        (server, "tap0", ["10.88.0.1/24", "fd00:88::1/64"]),
        (&guest, "eth1", ["10.88.0.2/24", "fd00:88::2/64"]),
    ] {
        host.ip(&format!("link set {interface} up"))?;
        host.ip(&format!("address add {} dev {interface}", addresses[0]))?;
        host.ip(&format!("address add {} dev {interface} nodad", addresses[1]))?;
    }
    guest.ip("route add default via 10.88.0.1")?;
    guest.ip("route add default via fd00:88::1")?;
    server.enter(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot route IPv4")?;
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("cannot route IPv6")
    })?;
    for host in [&scene.client, &scene.stranger] {
        host.ip(&format!("route add 10.88.0.0/24 via {}", SERVER[0]))?;
        host.ip(&format!("route add fd00:88::/64 via {}", SERVER[1]))?;
    }
    Ok(guest)
}

/// A web server on port 8000, for both families.
fn serve(host: &Host) -> Result<Running> {
    let mut command = host.command(env!("CARGO_BIN_EXE_guard-streaming-server"));
    let server = host.start(command.args(["--port", "8000"]))?;
    assert!(wait::within(PATIENCE, || get(host, "127.0.0.1")), "the test server does not listen");
    Ok(server)
}

fn get(host: &Host, address: &str) -> bool {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let url = format!("http://{address}:8000/health");
    host.output("curl", &["-s", "-f", "--connect-timeout", "2", "-m", "10", "-o", "/dev/null", &url])
        .is_ok_and(|(ok, _)| ok)
}

fn reaches(host: &Host, address: &str) -> bool {
    wait::within(PATIENCE, || get(host, address))
}

fn policy(mode: &str, destinations: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n\
         {destinations}"
    )
}

fn only_what_is_for_the_destinations_is_judged(mode: &str) -> Result<()> {
    let scene = Scene::new()?;
    let guest = guest(&scene)?;
    let _servers = [serve(&scene.server)?, serve(&guest)?];
    for address in [SERVER, GUEST].concat() {
        assert!(reaches(&scene.stranger, address), "without guard a stranger reaches {address}");
    }
    let guard = Guard::start(&scene.server, &policy(mode, ""))?;
    for address in [SERVER, GUEST].concat() {
        assert!(!get(&scene.stranger, address), "{mode}: without destinations no stranger reaches {address}");
    }
    drop(guard);
    let named = format!("destinations = [\"{}\", \"{}\"]\n", SERVER[0], SERVER[1]);
    let guard = Guard::start(&scene.server, &policy(mode, &named))?;
    for (source, verdict) in [(STRANGER[0], "DROP, not_allowed"), (CLIENT[1], "PASS, allowed")] {
        let (code, said, stderr) = guard.output(&["explain", source])?;
        assert!(said.contains(verdict) && code == Some(0), "{source}: {said}{stderr}");
        assert!(said.contains("at its `destinations` only"), "{said}");
    }
    for address in GUEST {
        assert!(reaches(&scene.stranger, address), "{mode}: a stranger reaches the guest at {address}");
    }
    for address in SERVER {
        assert!(!get(&scene.stranger, address), "{mode}: a stranger does not reach {address}");
    }
    for address in [SERVER, GUEST].concat() {
        assert!(reaches(&scene.client, address), "{mode}: a client reaches {address}");
    }
    Ok(())
}

#[test]
fn a_policy_judges_what_is_for_its_destinations_and_no_guest() -> Result<()> {
    only_what_is_for_the_destinations_is_judged("native")
}

#[test]
fn a_policy_judges_what_is_for_its_destinations_and_no_guest_in_generic_mode() -> Result<()> {
    only_what_is_for_the_destinations_is_judged("generic")
}
