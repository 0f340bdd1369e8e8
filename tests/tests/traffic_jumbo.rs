//! Frames of 9,000 bytes lie in several buffers: they are judged by the first, arrive whole, and count whole.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};

const PORT: u16 = 8000;
const DATAGRAMS: usize = 20;
const PAYLOAD: usize = 8000;
/// Ethernet, IPv4 and UDP; Ethernet, IPv6 and UDP.
const HEADERS: [usize; 2] = [14 + 20 + 8, 14 + 40 + 8];

fn send(host: &Host, to: &str) -> Result<()> {
    host.enter(|| {
        let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        for _ in 0..DATAGRAMS {
            let sent = socket.send_to(&[0x55; PAYLOAD], (to, PORT)).context("cannot send")?;
            ensure!(sent == PAYLOAD);
        }
        Ok(())
    })
}

fn jumbo_frames_are_judged(mode: &str) -> Result<()> {
    let scene = Scene::new()?;
    scene.network.set_mtu(&[&scene.server, &scene.client, &scene.stranger], 9000)?;
    let listener = UdpCounter::listen(&scene.server, PORT)?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    ensure!(guard.log().contains(&format!("{mode} mode, frames of any size")), "{}", guard.log());
    for (family, address) in SERVER.into_iter().enumerate() {
        send(&scene.stranger, address)?;
        send(&scene.client, address)?;
        let arrived = listener.settled() as usize;
        ensure!(arrived == (family + 1) * DATAGRAMS, "{address}: {arrived} arrived: {:?}", guard.counts()?);
    }
    let metrics = guard.metrics()?;
    let bytes = |verdict, reason| -> Result<usize> {
        let line = format!("guard_bytes_total{{reason=\"{reason}\",service=\"web\",verdict=\"{verdict}\"}} ");
        let value = metrics.lines().find_map(|text| text.strip_prefix(&line)).context("no such metric")?;
        value.parse().context("no number")
    };
    let expected: usize = HEADERS.iter().map(|headers| DATAGRAMS * (headers + PAYLOAD)).sum();
    ensure!(bytes("pass", "allowed")? == expected, "{metrics}");
    ensure!(bytes("drop", "not_allowed")? == expected, "{metrics}");
    Ok(())
}

#[test]
fn native_mode() -> Result<()> {
    jumbo_frames_are_judged("native")
}

#[test]
fn generic_mode() -> Result<()> {
    jumbo_frames_are_judged("generic")
}
