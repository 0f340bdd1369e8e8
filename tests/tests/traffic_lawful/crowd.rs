//! Many connections behind one address: a benchmark that opens all of them at once, and a gateway.

use std::io::Write;
use std::thread;

use anyhow::{Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{SERVER, Scene};
use guard_tests::stale;
use guard_tests::streams::StreamingServer;
use serde_json::json;

use super::work::h2load;
use super::{PATIENCE, PORT, enforced, loses_nothing, policies};

/// Streams that last for ten seconds, so that all are open at the same time.
const LONG: (u64, u64) = (5, 2000);
const SHORT: (u64, u64) = (10, 200);

#[test]
fn a_benchmark_with_a_thousand_connections_loses_nothing() -> Result<()> {
    policies()?.iter().try_for_each(|policy| crowd(policy, "a benchmark", 1000, 1, LONG))
}

#[test]
fn a_gateway_with_three_hundred_users_loses_nothing() -> Result<()> {
    policies()?.iter().try_for_each(|policy| crowd(policy, "a gateway", 300, 4, SHORT))
}

/// So many connections at once, each with some streams one after the other, of so many tokens at a pace in milliseconds.
fn crowd(policy: &str, who: &str, connections: u64, rounds: u64, (tokens, delay): (u64, u64)) -> Result<()> {
    let scene = Scene::new()?;
    let program = env!("CARGO_BIN_EXE_guard-streaming-server");
    let server = StreamingServer::start(&scene.server, program, PORT)?;
    let guard = Guard::start(&scene.server, &enforced(policy)?)?;
    let mut request = tempfile::Builder::new().prefix(&stale::prefix()).tempfile()?;
    let body = json!({ "prompt": "Hello", "max_tokens": tokens, "stream": true, "delay": delay });
    request.write_all(body.to_string().as_bytes())?;
    // SYN, request and the last acknowledgement.
    loses_nothing(&guard, who, connections * (2 + rounds), || {
        thread::scope(|scope| {
            let load = || load(&scene.client, connections, rounds, &request.path().display().to_string());
            let load = scope.spawn(load);
            ensure!(
                server.has(connections, PATIENCE),
                "never {connections} streams at once: {:?}",
                server.active()
            );
            load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
        })
    })
}

/// Requests over HTTP/1.1, `rounds` over each connection.
fn load(client: &Host, connections: u64, rounds: u64, body: &str) -> Result<()> {
    let url = format!("http://{}:{PORT}/v1/completions", SERVER[0]);
    let (count, requests) = (connections.to_string(), connections * rounds);
    let header = "content-type: application/json";
    h2load(client, requests, &["--h1", "-c", &count, "-d", body, "-H", header, &url])
}
