//! TCP Fast Open: a SYN that brings data opens a connection like any other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::hidden::unless_hidden;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use serde_json::Value;
use tempfile::NamedTempFile;

const PATIENCE: Duration = Duration::from_secs(30);
const MOST: u64 = 5;
const CLIENTS: u64 = 40;

/// Accepts connections with Fast Open, and keeps them.
const KEEP: &str = r#"
import socket, time
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.setsockopt(socket.IPPROTO_TCP, 23, 1000)
server.bind(("0.0.0.0", 8000))
server.listen(1000)
held = []
print("listening", flush=True)
while True:
    held.append(server.accept()[0])
"#;

/// Opens connections with a request in the SYN, the first one for the cookie, and keeps them.
const OPEN: &str = r#"
import select, socket, sys, time
address, count = (sys.argv[1], 8000), int(sys.argv[2])
def opened():
    client = socket.socket()
    client.setblocking(False)
    try:
        client.sendto(b"GET / HTTP/1.1\r\n\r\n", 0x20000000, address)
    except BlockingIOError:
        pass
    return client
first = opened()
select.select([], [first], [], 5)
time.sleep(0.2)
first.close()
held = [opened() for _ in range(count)]
print("opened", flush=True)
time.sleep(600)
"#;

fn allow_fast_open(host: &Host) -> Result<()> {
    host.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").context("cannot allow Fast Open"))
}

fn python(
    host: &Host,
    script: &str,
    arguments: &[&str],
    says: &str,
) -> Result<(guard_tests::net::Running, NamedTempFile)> {
    let log = NamedTempFile::with_prefix(guard_tests::stale::prefix())?;
    let mut command = host.command("/usr/bin/python3");
    command.args(["-c", script]).args(arguments).stdout(log.reopen()?).stderr(log.reopen()?);
    let running = host.start(&mut command)?;
    let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
    ensure!(wait::within(PATIENCE, || said().contains(says)), "{}", said());
    Ok((running, log))
}

/// Connections that the server accepted with data in the SYN.
fn with_data(server: &Host) -> Result<u64> {
    let text = server.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("no counters")?;
    let mut found = names.split(' ').zip(values.split(' ')).filter(|(name, _)| *name == "TCPFastOpenPassive");
    Ok(found.next().context("no such counter")?.1.parse()?)
}

#[test]
fn max_connections_holds_for_clients_that_use_fast_open() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        [&scene.server, &scene.client].into_iter().try_for_each(allow_fast_open)?;
        let _server = python(&scene.server, KEEP, &[], "listening")?;
        let limits = format!("limits = \"few\"\n[limits.few]\nmax_connections = {MOST}\n");
        let policy = format!(
            "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{limits}"
        );
        let guard = Guard::start(&scene.server, &policy)?;
        let _client = python(&scene.client, OPEN, &[SERVER[0], &CLIENTS.to_string()], "opened")?;
        let established = || -> Result<u64> {
            let (_, stdout, _) = guard.output(&["connections", "--json"])?;
            Ok(serde_json::from_str::<Value>(&stdout)?[0]["established"].as_u64().unwrap_or(0))
        };
        let sockets = || {
            let established = ["-Htn", "state", "established", "sport = :8000"];
            scene.server.output("ss", &established).map_or(0, |(_, sockets)| sockets.lines().count() as u64)
        };
        let holds = || established().is_ok_and(|open| open == MOST) && sockets() == MOST;
        ensure!(wait::within(PATIENCE, holds), "{:?} counted, {} sockets", established(), sockets());
        let used = with_data(&scene.server)?;
        ensure!(used >= MOST, "only {used} connections had data in their SYN");
        // Nothing was left to a comparison with the sockets.
        ensure!(guard.metrics()?.contains("guard_connection_drift_total 0\n"), "{}", guard.metrics()?);
        println!("{used} connections had data in their SYN, {MOST} stay");
        Ok(())
    })
}
