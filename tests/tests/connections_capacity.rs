//! More connections than the tables have room for.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::hidden::unless_hidden;
use guard_tests::net::CONTAINER;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect_from};
use guard_tests::wait;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(30);
/// From one comparison with the sockets to the next, and a little.
const COMPARISON: Duration = Duration::from_secs(11);
/// The least that `[capacity]` takes.
const ROOM: usize = 1024;
const TOO_MANY: usize = 76;
/// Limited to five connections.
const LIMITED: &str = "10.77.1.9";

fn is_open(stream: &TcpStream) -> bool {
    let mut stream = stream;
    let read = stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0]));
    read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn value(guard: &Guard<'_>, metric: &str) -> Result<u64> {
    let metrics = guard.metrics()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{metric} ")));
    Ok(line.with_context(|| metric.to_owned())?.parse()?)
}

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n\
         [[service.sources]]\nprefix = \"{LIMITED}\"\nlimits = \"few\"\n[limits.few]\nmax_connections = 5\n\
         [capacity]\nconnections = {ROOM}\n"
    )
}

/// Nothing but the kernel's report tells that such a connection came through guard: it is not translated, and not counted.
#[test]
fn a_limit_holds_in_a_container_that_is_reached_by_routing_too() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        scene.client.ip(&format!("address add {LIMITED}/16 dev eth0"))?;
        let container = scene.server.publish(7000, 9000)?;
        let _server = StreamingServer::start(&container, STREAMING, 8000)?;
        scene.client.ip(&format!("route add {CONTAINER} via {}", SERVER[0]))?;
        let guard = Guard::start(&scene.server, &policy())?;
        let unlimited = connect_from(&scene.client, CLIENT[0], CONTAINER, ROOM)?;
        let limited: Vec<_> =
            (0..8).filter_map(|_| connect_from(&scene.client, LIMITED, CONTAINER, 1).ok()?.pop()).collect();
        ensure!(!limited.is_empty(), "no handshake was let in: {}", guard.log());
        let open = || limited.iter().filter(|stream| is_open(stream)).count();
        ensure!(wait::within(PATIENCE, || open() == 0), "{} of a source with a limit go on", open());
        ensure!(unlimited.iter().all(is_open), "a source without a limit keeps what it has");
        Ok(())
    })
}

#[test]
fn what_does_not_fit_is_known_and_a_limit_holds_all_the_same() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        scene.client.ip(&format!("address add {LIMITED}/16 dev eth0"))?;
        let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
        let guard = Guard::start(&scene.server, &policy())?;
        let unlimited = connect_from(&scene.client, CLIENT[0], SERVER[0], ROOM + TOO_MANY)?;
        // Each is let in by its handshake. The agent ends them: no place can be counted for them.
        let limited: Vec<_> =
            (0..20).filter_map(|_| connect_from(&scene.client, LIMITED, SERVER[0], 1).ok()?.pop()).collect();
        let open = || limited.iter().filter(|stream| is_open(stream)).count();
        ensure!(wait::within(PATIENCE, || open() == 0), "{} of a source with a limit go on", open());
        ensure!(unlimited.iter().all(is_open), "a source without a limit keeps what it has");
        let untracked = value(&guard, "guard_connections_untracked_total")?;
        ensure!(untracked >= TOO_MANY as u64, "{untracked} of {TOO_MANY} are known");
        let problem = || -> Result<String> {
            let status: Value = serde_json::from_str(&guard.output(&["status", "--json"])?.1)?;
            Ok(status["problems"].to_string())
        };
        let expected = format!("{TOO_MANY} more are open and not counted");
        let is_told = || problem().is_ok_and(|problem| problem.contains(&expected));
        ensure!(wait::within(2 * PATIENCE, is_told), "{}", problem()?);
        let drift = || value(&guard, "guard_connection_drift_total");
        let before = (drift()?, value(&guard, "guard_connections_untracked_total")?);
        thread::sleep(3 * COMPARISON);
        let after = (drift()?, value(&guard, "guard_connections_untracked_total")?);
        ensure!(before == after, "each was counted once: {before:?}, then {after:?}");
        ensure!(before.0 == 0, "what does not fit was not counted wrongly: {before:?}");
        drop(unlimited);
        // There is room again.
        let places = || {
            connect_from(&scene.client, LIMITED, SERVER[0], 5).is_ok_and(|open| {
                thread::sleep(Duration::from_millis(200));
                open.iter().all(is_open)
            })
        };
        ensure!(wait::within(PATIENCE, places), "the limited source gets its places");
        Ok(())
    })
}
