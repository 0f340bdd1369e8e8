//! A server that stands still, as one does that loads a model or collects garbage, and a health checker that goes on asking it.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{SERVER, Scene};
use guard_tests::wait;
use nix::sys::signal::Signal;

use super::work::post_within;
use super::{PATIENCE, PORT, enforced, loses_nothing, policies, serve};

/// Seconds; `GUARD_TEST_STANDSTILL=60` for a minute.
const STANDSTILL: u64 = 15;
/// More than a source may have open by the limits that people choose.
const CHECKS: u32 = 300;

#[test]
fn a_health_checker_is_not_blamed_for_a_server_that_stands_still() -> Result<()> {
    let seconds = std::env::var("GUARD_TEST_STANDSTILL").ok().map(|text| text.parse());
    let standstill = Duration::from_secs(seconds.transpose()?.unwrap_or(STANDSTILL));
    policies()?.iter().try_for_each(|policy| stands_still(policy, standstill))
}

fn stands_still(policy: &str, standstill: Duration) -> Result<()> {
    let scene = Scene::new()?;
    let server = serve(&scene.server)?;
    let guard = Guard::start(&scene.server, &enforced(policy)?)?;
    loses_nothing(&guard, "a health checker", u64::from(CHECKS) * 3, || {
        let request = r#"{"prompt": "x", "stream": true, "max_tokens": 20, "delay": 100}"#;
        thread::scope(|scope| {
            let patience = (standstill + PATIENCE).as_secs().to_string();
            let client = &scene.client;
            let stream = scope.spawn(move || post_within(client, request, &patience));
            server.signal(Signal::SIGSTOP)?;
            let checked = check_for(&scene.client, standstill);
            server.signal(Signal::SIGCONT)?;
            checked?;
            let answer = stream.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
            ensure!(answer.contains("data: [DONE]"), "a stream ended early: {answer}");
            let url = format!("http://{}:{PORT}/health", SERVER[0]);
            let healthy = || scene.client.output("curl", &["-sf", "-m", "5", &url]).is_ok_and(|(ok, _)| ok);
            ensure!(wait::within(PATIENCE, healthy), "the checker gets no answer after the standstill");
            Ok(())
        })
    })
}

/// Asks again and again, and closes without an answer: the sockets stay with the server, in CLOSE_WAIT.
fn check_for(checker: &Host, time: Duration) -> Result<()> {
    let server: SocketAddr = format!("{}:{PORT}", SERVER[0]).parse()?;
    checker.enter(|| {
        for number in 0..CHECKS {
            let connected = TcpStream::connect_timeout(&server, PATIENCE);
            let mut check = connected.with_context(|| format!("check {number} of {CHECKS}"))?;
            check.write_all(b"GET /health HTTP/1.1\r\nhost: server\r\n\r\n")?;
            thread::sleep(time / CHECKS);
        }
        Ok(())
    })
}
