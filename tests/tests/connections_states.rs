//! What `guard connections` tells of states and silence: leaks of the server, vanished clients and those at work are told apart.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene};
use guard_tests::streams::connect;
use guard_tests::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds.
const LONG: u64 = 4;

fn connections(guard: &Guard<'_>, arguments: &[&str]) -> Result<Vec<Value>> {
    let (code, stdout, stderr) = guard.output(&[&["connections", "--json"], arguments].concat())?;
    ensure!(code == Some(0), "{stderr}");
    Ok(serde_json::from_str(&stdout)?)
}

/// What is said of one state of a source.
fn state(connections: &[Value], source: &str, state: &str) -> Option<Value> {
    let of = connections.iter().find(|of| of["source"] == format!("{source}/32"))?;
    of["states"].as_array()?.iter().find(|of| of["state"] == state).cloned()
}

#[test]
fn leaks_and_vanished_clients_are_told_from_those_at_work() -> Result<()> {
    let scene = Scene::new()?;
    let listener = scene.server.enter(|| Ok(TcpListener::bind("0.0.0.0:8000")?))?;
    let allow = ALLOW.replace(']', ", \"10.77.66.0/24\"]");
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {allow}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let accept = || -> Result<(TcpStream, SocketAddr)> { Ok(listener.accept()?) };
    let leaked = connect(&scene.client, SERVER[0], 3)?;
    let _leaks = [accept()?, accept()?, accept()?];
    for client in &leaked {
        client.shutdown(Shutdown::Write)?;
    }
    let _idle = connect(&scene.client, SERVER[0], 1)?;
    let _of_idle = accept()?;
    let mut busy = connect(&scene.stranger, SERVER[0], 1)?.pop().context("no connection")?;
    let (mut of_busy, _) = accept()?;
    busy.set_read_timeout(Some(PATIENCE))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && of_busy.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 100];
            while !stop.load(Ordering::Relaxed) && busy.read(&mut buffer).is_ok() {
                thread::yield_now();
            }
        });
        let checked = check(&guard);
        stop.store(true, Ordering::Relaxed);
        checked
    })
}

fn check(guard: &Guard<'_>) -> Result<()> {
    let [client, busy] = [CLIENT[0], STRANGER[0]];
    let mut found = Vec::new();
    let silence = |found: &[Value], source, state_of, key: &str| -> Option<u64> {
        state(found, source, state_of)?[key].as_u64()
    };
    let is_told = wait::within(PATIENCE, || {
        found = connections(guard, &[]).unwrap_or_default();
        let idle = silence(&found, client, "established", "silent_least_seconds");
        let leaks = silence(&found, client, "closed_by_peer", "silent_least_seconds");
        idle.is_some_and(|idle| idle >= LONG) && leaks.is_some_and(|leaks| leaks >= LONG)
    });
    ensure!(is_told, "{found:#?}");
    let count = |source, state_of| silence(&found, source, state_of, "connections");
    ensure!(count(client, "closed_by_peer") == Some(3), "{found:#?}");
    ensure!(count(client, "established") == Some(1) && count(busy, "established") == Some(1), "{found:#?}");
    let at_work = silence(&found, busy, "established", "silent_most_seconds");
    ensure!(at_work.is_some_and(|silent| silent < LONG), "{found:#?}");
    // The agent has seen all of them at a comparison.
    let has_age = || {
        let found = connections(guard, &[]).unwrap_or_default();
        silence(&found, client, "closed_by_peer", "oldest_seconds").is_some_and(|age| age >= 1)
    };
    ensure!(wait::within(PATIENCE, has_age), "{:#?}", connections(guard, &[])?);
    let leaks = connections(guard, &["--state", "closed_by_peer"])?;
    let [only] = leaks.as_slice() else { anyhow::bail!("{leaks:#?}") };
    ensure!(only["source"] == format!("{client}/32") && only["established"] == 3, "{leaks:#?}");
    ensure!(connections(guard, &["--state", "closing"])?.is_empty());
    let (_, text, _) = guard.output(&["connections"])?;
    ensure!(text.lines().next().is_some_and(|heading| heading.contains("by peer")), "{text}");
    let (code, _, stderr) = guard.output(&["connections", "--state", "gone"])?;
    ensure!(code == Some(2) && stderr.contains("closed_by_peer"), "{stderr}");
    Ok(())
}
