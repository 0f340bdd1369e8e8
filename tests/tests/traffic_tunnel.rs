//! Devices without an Ethernet header: what comes by a tunnel is judged from its IP header on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guard_common::Reason;
use guard_tests::frame::random::{self, Space};
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::Scene;
use guard_tests::tun::{TUNNEL, Tunnel};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(30);
/// Where an Ethernet header has its type these sources have an address: its first bytes are those of IPv4, IPv6 and of VLAN tags.
const CLIENTS: [&str; 6] =
    ["10.99.1.2", "8.0.0.5", "129.0.0.5", "136.168.0.5", "134.221.0.5", "fd00:99::1:2"];
const STRANGERS: [&str; 6] =
    ["10.99.66.3", "8.0.0.6", "129.0.0.6", "136.168.0.6", "134.221.0.6", "fd00:99::66:3"];
const HERE: [&str; 2] = ["10.99.0.1", "fd00:99::1"];

fn policy(mode: &str, interface: &str) -> String {
    let allow = format!("{CLIENTS:?}");
    format!(
        "[attach]\ninterfaces = [\"{interface}\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {allow}\n"
    )
}

/// A tunnel from the server to the client, whose addresses are those of clients and strangers alike.
fn tunnel(scene: &Scene) -> Result<Tunnel> {
    let tunnel = Tunnel::between(&scene.server, &scene.client)?;
    for host in [&scene.server, &scene.client] {
        host.ip(&format!("link set {TUNNEL} up"))?;
    }
    scene.server.ip(&format!("address add {}/16 dev {TUNNEL}", HERE[0]))?;
    scene.server.ip(&format!("address add {}/64 dev {TUNNEL} nodad", HERE[1]))?;
    for address in CLIENTS.iter().chain(&STRANGERS) {
        let (length, nodad) = if address.contains(':') { (128, "nodad") } else { (32, "") };
        scene.client.ip(&format!("address add {address}/{length} dev {TUNNEL} {nodad}"))?;
        scene.server.ip(&format!("route replace {address}/{length} dev {TUNNEL}"))?;
    }
    for here in HERE {
        scene.client.ip(&format!("route add {here} dev {TUNNEL}"))?;
    }
    Ok(tunnel)
}

fn serve(host: &Host) -> Result<Running> {
    let mut command = host.command(env!("CARGO_BIN_EXE_guard-streaming-server"));
    let server = host.start(command.args(["--port", "8000"]))?;
    let is_up = || {
        let url = "http://127.0.0.1:8000/health";
        host.output("curl", &["-sf", "-m", "4", "-o", "/dev/null", url]).is_ok_and(|(ok, _)| ok)
    };
    ensure!(wait::within(PATIENCE, is_up), "the test server does not listen");
    Ok(server)
}

/// Whether a request from this address is answered.
fn get(scene: &Scene, from: &str) -> bool {
    let url = if from.contains(':') {
        format!("http://[{}]:8000/health", HERE[1])
    } else {
        format!("http://{}:8000/health", HERE[0])
    };
    let arguments = ["-sf", "--interface", from, "-m", "3", "-o", "/dev/null", &url];
    scene.client.output("curl", &arguments).is_ok_and(|(ok, _)| ok)
}

#[test]
fn a_stranger_in_a_tunnel_is_kept_out_and_a_client_passes() -> Result<()> {
    let scene = Scene::new()?;
    let _tunnel = tunnel(&scene)?;
    let _server = serve(&scene.server)?;
    for stranger in STRANGERS {
        ensure!(get(&scene, stranger), "without guard {stranger} gets an answer");
    }
    let guard = Guard::start(&scene.server, &policy("auto", TUNNEL))?;
    for client in CLIENTS {
        ensure!(get(&scene, client), "{client} is allowed: {}", guard.log());
    }
    ensure!(guard.counter("", Reason::Malformed)?.packets == 0, "no honest packet is malformed");
    ensure!(guard.counter("", Reason::NotIp)?.packets == 0, "each packet is one of IP");
    let before = guard.counter("web", Reason::NotAllowed)?.packets;
    for stranger in STRANGERS {
        ensure!(!get(&scene, stranger), "{stranger} is no client");
    }
    let dropped = guard.counter("web", Reason::NotAllowed)?.packets - before;
    ensure!(dropped >= STRANGERS.len() as u64, "{dropped} packets of strangers");
    let (_, text, _) = guard.output(&["status"])?;
    ensure!(text.contains("generic") && text.contains("no Ethernet header"), "{text}");
    Ok(())
}

#[test]
fn a_restart_takes_the_program_of_a_tunnel_over() -> Result<()> {
    let scene = Scene::new()?;
    let _tunnel = tunnel(&scene)?;
    let _server = serve(&scene.server)?;
    let mut guard = Guard::start(&scene.server, &policy("auto", "tun*"))?;
    guard.kill()?;
    ensure!(!get(&scene, STRANGERS[1]) && get(&scene, CLIENTS[1]), "the kernel goes on");
    guard.run()?;
    ensure!(guard.log().contains("took over"), "{}", guard.log());
    ensure!(!get(&scene, STRANGERS[1]) && get(&scene, CLIENTS[1]), "{}", guard.log());
    Ok(())
}

#[test]
fn what_is_no_ip_packet_does_not_get_past_on_a_tunnel() -> Result<()> {
    let scene = Scene::new()?;
    let mut tunnel = tunnel(&scene)?;
    let guard = Guard::start(&scene.server, &policy("auto", TUNNEL))?;
    let sources = STRANGERS.iter().map(|stranger| stranger.parse()).collect::<Result<Vec<_>, _>>()?;
    let space = Space { sources, ports: vec![8000] };
    let mut rng = Rng::with_seed(15);
    for _ in 0..20_000 {
        let frame = random::frame(&mut rng, &space);
        tunnel.inject(frame.get(14..).unwrap_or_default())?;
        // The Ethernet header, too, is nothing but bytes.
        tunnel.inject(&frame)?;
    }
    let allowed = guard.counter("web", Reason::Allowed)?.packets;
    let refused = guard.counter("web", Reason::NotAllowed)?.packets;
    ensure!(allowed == 0 && refused > 100, "{allowed} allowed, {refused} refused");
    ensure!(guard.counter("", Reason::NotIp)?.packets == 0);
    Ok(())
}

#[test]
fn native_mode_on_a_tunnel_is_refused_with_the_reason_and_guard_is_not_ready() -> Result<()> {
    let scene = Scene::new()?;
    let _tunnel = tunnel(&scene)?;
    let host = &scene.server;
    let text = policy("native", "eth0").replace("\"eth0\"", &format!("\"eth0\", \"{TUNNEL}\""));
    let guard = Guard::start(host, &text)?;
    let (_, text, _) = guard.output(&["status"])?;
    let problem = text.lines().find(|line| line.starts_with("PROBLEM")).context("there is a problem")?;
    ensure!(problem.contains(TUNNEL) && problem.contains("mode = \"auto\""), "{text}");
    let ready = host.output("curl", &["-sf", "http://127.0.0.1:9455/readyz"]).is_ok_and(|(ok, _)| ok);
    ensure!(!ready, "open is not ready: {text}");
    let eth0 = text.lines().find(|line| line.trim_start().starts_with("eth0")).context("eth0 is shown")?;
    ensure!(eth0.contains("native"), "the rest goes on: {text}");
    Ok(())
}
