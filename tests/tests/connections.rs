//! Connections: who has how many, where containers are behind the host too, what limits them, and what ends them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::guard::Guard;
use guard_tests::net::{CONTAINER, Host};
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect, stream};
use guard_tests::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

fn policy(limits: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{limits}"
    )
}

const FIVE: &str = "limits = \"few\"\n[limits.few]\nmax_connections = 5\n";

/// The path of the server that streams.
const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");

/// Established and half-open connections by source, as `guard connections --json` says.
fn connections(guard: &Guard<'_>) -> Result<Vec<(String, u64, u64)>> {
    let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let list: Value = serde_json::from_str(&stdout)?;
    let source = |of: &Value| {
        let source = of["source"].as_str().context("no source")?.to_owned();
        let count = |key: &str| of[key].as_u64().context("no count");
        Ok((source, count("established")?, count("half_open")?))
    };
    list.as_array().context("no list")?.iter().map(source).collect()
}

fn expect(guard: &Guard<'_>, expected: &[(&str, u64)]) -> Result<()> {
    let expected: Vec<_> =
        expected.iter().map(|(source, established)| ((*source).to_owned(), *established, 0)).collect();
    let found = || connections(guard).is_ok_and(|found| found == expected);
    ensure!(wait::within(PATIENCE, found), "{:?} instead of {expected:?}", connections(guard)?);
    Ok(())
}

#[test]
fn a_source_has_no_more_connections_than_its_limit() -> Result<()> {
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    // These are open before guard comes.
    let mut open = connect(&scene.client, SERVER[0], 2)?;
    let mut guard = Guard::start(&scene.server, &policy(FIVE))?;
    expect(&guard, &[("10.77.1.2/32", 2)])?;
    open.extend(connect(&scene.client, SERVER[0], 3)?);
    expect(&guard, &[("10.77.1.2/32", 5)])?;
    ensure!(connect(&scene.client, SERVER[0], 1).is_err(), "the sixth one");
    ensure!(guard.counter("web", Reason::MaxConnections)?.packets > 0);
    open.truncate(4);
    expect(&guard, &[("10.77.1.2/32", 4)])?;
    open.extend(connect(&scene.client, SERVER[0], 1)?);
    ensure!(connect(&scene.client, SERVER[0], 1).is_err(), "the sixth one again");
    // The count needs no agent.
    guard.kill()?;
    open.truncate(3);
    let closed = || guard.maps().and_then(|maps| Ok(maps.connections()?)).is_ok_and(|all| all[0].1 == 3);
    ensure!(wait::within(PATIENCE, closed));
    open.extend(connect(&scene.client, SERVER[0], 2)?);
    ensure!(connect(&scene.client, SERVER[0], 1).is_err(), "the sixth one without an agent");
    guard.run()?;
    expect(&guard, &[("10.77.1.2/32", 5)])?;
    let metrics = guard.metrics()?;
    ensure!(metrics.contains("guard_connections{service=\"web\"} 5\n"), "{metrics}");
    ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
    Ok(())
}

#[test]
fn a_block_with_kill_ends_the_streams_of_its_source_and_of_nobody_else() -> Result<()> {
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    scene.client.ip("address add 10.77.1.9/16 dev eth0")?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let streams = [stream(&scene.client, SERVER[0])?, stream(&scene.client, SERVER[1])?];
    ensure!(server.has(2, PATIENCE));
    let (code, stdout, stderr) =
        guard.output(&["block", CLIENT[0], "--kill", "--scope", "services", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let answer: Value = serde_json::from_str(&stdout)?;
    ensure!(answer["killed"] == 1 && answer["added"] == 1, "{answer}");
    ensure!(server.has(1, Duration::from_secs(1)), "the generation ends at once: {}", server.active()?);
    expect(&guard, &[("fd00:77::/64", 1)])?;
    let (_, events, _) = guard.output(&["events"])?;
    ensure!(events.contains("kill 10.77.1.2/32"), "{events}");
    // Without an agent, too.
    drop(streams);
    let _streams = [stream(&scene.client, SERVER[1])?];
    ensure!(server.has(1, PATIENCE));
    let mut guard = guard;
    guard.kill()?;
    let (code, stdout, stderr) = guard.output(&["block", CLIENT[1], "--kill", "--scope", "services"])?;
    ensure!(code == Some(0) && stdout.contains("1 connection was closed"), "{stdout}{stderr}");
    ensure!(server.has(0, PATIENCE));
    Ok(())
}

/// The port that clients see is published by NAT, as Docker does it; the server is in a container, on another port.
#[test]
fn a_container_behind_nat_is_guarded_like_the_host() -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.server.publish(8000, 9000)?;
    let server = StreamingServer::start(&container, STREAMING, 9000)?;
    let reaches = |host: &Host| {
        let url = format!("http://{}:8000/health", SERVER[0]);
        host.output("curl", &["-sf", "-m", "1", &url]).is_ok_and(|(ok, _)| ok)
    };
    // What people do instead, and what it is worth.
    let rule = ["-A", "INPUT", "-p", "tcp", "--dport", "8000", "-j", "DROP"];
    let (ok, said) = scene.server.output("iptables", &rule)?;
    ensure!(ok, "{said}");
    ensure!(reaches(&scene.client) && reaches(&scene.stranger), "iptables -A INPUT does not see it");

    let before = connect(&scene.client, SERVER[0], 1)?;
    let guard = Guard::start(&scene.server, &policy(FIVE))?;
    ensure!(reaches(&scene.client) && !reaches(&scene.stranger), "the allow list");
    expect(&guard, &[("10.77.1.2/32", 1)])?;
    drop(before);
    expect(&guard, &[])?;
    let open = connect(&scene.client, SERVER[0], 5)?;
    expect(&guard, &[("10.77.1.2/32", 5)])?;
    ensure!(connect(&scene.client, SERVER[0], 1).is_err(), "max_connections");
    drop(open);
    expect(&guard, &[])?;
    let _stream = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
    ensure!(code == Some(0) && stdout.contains("1 connection was closed"), "{stdout}{stderr}");
    ensure!(server.has(0, Duration::from_secs(1)));
    ensure!(!reaches(&scene.client), "the block");
    Ok(())
}

/// As pods of a cluster are that clients reach by their own addresses: nothing is translated.
#[test]
fn a_container_that_is_reached_by_routing_is_guarded_too() -> Result<()> {
    let scene = Scene::new()?;
    let container = scene.server.publish(7000, 9000)?;
    let server = StreamingServer::start(&container, STREAMING, 8000)?;
    scene.client.ip(&format!("route add {CONTAINER} via {}", SERVER[0]))?;
    let guard = Guard::start(&scene.server, &policy(FIVE))?;
    let open = connect(&scene.client, CONTAINER, 5)?;
    expect(&guard, &[("10.77.1.2/32", 5)])?;
    ensure!(connect(&scene.client, CONTAINER, 1).is_err(), "max_connections");
    drop(open);
    expect(&guard, &[])?;
    let _stream = stream(&scene.client, CONTAINER)?;
    ensure!(server.has(1, PATIENCE));
    let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
    ensure!(code == Some(0) && stdout.contains("1 connection was closed"), "{stdout}{stderr}");
    ensure!(server.has(0, Duration::from_secs(1)));
    let metrics = guard.metrics()?;
    ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
    Ok(())
}
