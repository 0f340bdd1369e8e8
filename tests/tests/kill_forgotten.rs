//! Connections that conntrack has forgotten: the server still works for them, and a kill ends them.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::connect;
use guard_tests::wait;
use guard_userspace::sockets::{Counted, Sockets};
use serde_json::Value;

const MANY: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

/// Connections to the published port that their client has closed, and the server has not: conntrack keeps them for a second.
struct Leaked {
    _clients: Vec<TcpStream>,
    servers: Vec<TcpStream>,
}

impl Leaked {
    /// `seen` looks at them before they are closed.
    fn open(scene: &Scene, listener: &TcpListener, seen: impl FnOnce() -> Result<()>) -> Result<Self> {
        scene.server.enter(|| {
            let timeout = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
            fs::write(timeout, "1").context("no conntrack")
        })?;
        let clients = connect(&scene.client, SERVER[0], MANY)?;
        let servers = clients.iter().map(|_| Ok(listener.accept()?.0)).collect::<Result<Vec<_>>>()?;
        seen()?;
        for client in &clients {
            client.shutdown(Shutdown::Write)?;
        }
        Ok(Self { _clients: clients, servers })
    }

    /// Waits until nobody who asks conntrack finds them any longer.
    fn are_forgotten(scene: &Scene) -> bool {
        let is_forgotten = || {
            scene.server.enter(|| {
                let found = Sockets::new()?.list(&[8000].into(), &Counted::nothing(|_| false))?;
                Ok(found.connections.iter().all(|found| found.client.ip().to_string() != CLIENT[0]))
            })
        };
        wait::within(PATIENCE, || is_forgotten().unwrap_or(false))
    }

    /// Whether the server's process is told when it writes. To read it gets the end that the client has sent.
    fn are_over(&mut self) -> bool {
        self.servers.iter_mut().all(|server| wait::within(PATIENCE, || server.write_all(b"x").is_err()))
    }
}

/// Fails unless `guard connections` shows all of them, and how they are known.
fn are_listed(guard: &Guard<'_>, known_by: &str, how: &str) -> Result<()> {
    let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let list: Value = serde_json::from_str(&stdout)?;
    let [source] = list.as_array().context("no list")?.as_slice() else { bail!("{stdout}") };
    ensure!(source["source"] == format!("{}/32", CLIENT[0]) && source["service"] == "web", "{source}");
    let states = source["states"].as_array().context("no states")?;
    let closed = states.iter().filter(|of| of["state"] == "closed_by_peer");
    let closed: u64 = closed.filter_map(|of| of["connections"].as_u64()).sum();
    ensure!(closed == MANY as u64 && source["known_by"][known_by] == MANY, "{source}");
    let (_, text, _) = guard.output(&["connections"])?;
    ensure!(text.contains(how), "{text}");
    Ok(())
}

fn listen(container: &Host) -> Result<TcpListener> {
    container.enter(|| TcpListener::bind("0.0.0.0:9000").context("cannot listen"))
}

#[test]
fn a_kill_ends_what_conntrack_has_forgotten() -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.server.publish(8000, 9000)?;
    let listener = listen(&container)?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let kill = |guard: &Guard<'_>, mut leaked: Leaked, case: &str| -> Result<()> {
        let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
        ensure!(code == Some(0) && stdout.contains("10 connections were closed"), "{case}: {stdout}{stderr}");
        ensure!(leaked.are_over(), "{case}");
        guard.output(&["unblock", CLIENT[0]])?;
        Ok(())
    };
    let leaked = Leaked::open(&scene, &listener, || guard.output(&["connections"]).map(drop))?;
    ensure!(Leaked::are_forgotten(&scene), "conntrack keeps them");
    are_listed(&guard, "earlier_look", "guard knew of them before")?;
    kill(&guard, leaked, "an agent that saw them come")?;

    let leaked = Leaked::open(&scene, &listener, || Ok(()))?;
    guard.kill()?;
    ensure!(Leaked::are_forgotten(&scene), "conntrack keeps them");
    guard.run()?;
    are_listed(&guard, "count", "guard goes by what the kernel counts")?;
    kill(&guard, leaked, "an agent that was not there")?;

    let leaked = Leaked::open(&scene, &listener, || Ok(()))?;
    guard.kill()?;
    ensure!(Leaked::are_forgotten(&scene), "conntrack keeps them");
    kill(&guard, leaked, "no agent")
}
