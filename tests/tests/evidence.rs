//! What is held against a source, and what is not: what the policy lets in, what a local user makes up, what the client has closed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::guard::Guard;
use guard_tests::hidden::unless_hidden;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect, connect_from, stream};
use guard_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than three comparisons with the sockets take to come round.
const COMPARISONS: Duration = Duration::from_secs(33);

fn policy(more: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{more}"
    )
}

fn json(guard: &Guard<'_>, arguments: &[&str]) -> Result<Value> {
    let (code, stdout, stderr) = guard.output(&[arguments, &["--json"]].concat())?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(serde_json::from_str(&stdout)?)
}

fn is_blocked(guard: &Guard<'_>, net: &str) -> bool {
    json(guard, &["blocks"]).is_ok_and(|blocks| {
        blocks.as_array().is_some_and(|blocks| blocks.iter().any(|block| block["net"] == net))
    })
}

fn established(guard: &Guard<'_>) -> Result<u64> {
    let sources = json(guard, &["connections"])?;
    let sources = sources.as_array().context("no list")?.clone();
    Ok(sources.iter().filter_map(|of| of["established"].as_u64()).sum())
}

fn is_open(mut stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    Ok(stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock))
}

/// A policy without limits, and without a number of connections at which sources are blocked.
#[test]
fn what_the_policy_lets_in_gets_no_source_blocked() -> Result<()> {
    const MANY: usize = 600;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let open = connect_from(&scene.client, CLIENT[0], SERVER[0], MANY)?;
    ensure!(wait::within(PATIENCE, || established(&guard).is_ok_and(|open| open == MANY as u64)));
    thread::sleep(COMPARISONS);
    ensure!(!is_blocked(&guard, "10.77.1.2/32"), "{}", guard.log());
    for stream in &open {
        ensure!(is_open(stream)?, "{}", guard.log());
    }
    Ok(())
}

#[test]
fn monitor_mode_names_who_would_have_been_blocked() -> Result<()> {
    const THRESHOLD: usize = 30;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let monitor = policy(&format!("mode = \"monitor\"\n[autoblock]\nconnections = {THRESHOLD}\n"));
    let guard = Guard::start(&scene.server, &monitor)?;
    let _open = connect(&scene.client, SERVER[0], THRESHOLD + 1)?;
    let named = || -> Result<Value> { Ok(json(&guard, &["status"])?["would_block"][0].clone()) };
    let is_named = || named().is_ok_and(|named| named["net"] == "10.77.1.2/32" && named["service"] == "web");
    ensure!(wait::within(PATIENCE, is_named), "{:?} {}", named(), guard.log());
    let reason = format!("{} connections at once (limit {THRESHOLD})", THRESHOLD + 1);
    ensure!(named()?["reason"] == reason.as_str(), "{:?}", named()?);
    let (_, status, _) = guard.output(&["status"])?;
    ensure!(status.contains("would be blocked") && status.contains(&reason), "{status}");
    let (_, explained, _) = guard.output(&["explain", CLIENT[0]])?;
    ensure!(explained.contains(&reason), "{explained}");
    let recommended = || guard.output(&["recommend"]).is_ok_and(|(_, text, _)| text.contains(&reason));
    ensure!(wait::within(PATIENCE, recommended), "{:?}", guard.output(&["recommend"])?);
    ensure!(!is_blocked(&guard, "10.77.1.2/32"), "the service only monitors");
    // It enforces: what is open is over the threshold.
    let enforce = policy(&format!("[autoblock]\nconnections = {THRESHOLD}\n"));
    std::fs::write(guard.policy_file(), enforce)?;
    let (code, _, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{stderr}");
    ensure!(wait::within(PATIENCE, || is_blocked(&guard, "10.77.1.2/32")), "{}", guard.log());
    ensure!(named()?.is_null(), "{:?}", named()?);
    Ok(())
}

/// An unprivileged user has network namespaces of his own, in which his sockets have whatever addresses he likes.
#[test]
fn sockets_that_a_local_user_makes_up_are_held_against_no_client() -> Result<()> {
    const THRESHOLD: usize = 30;
    const FORGE: &str = r#"
import fcntl, socket, struct, sys, time
client, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def interface(name, address):
    entry = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(control, 0x8916, entry)
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), 1))
interface("lo", "127.0.0.1")
interface("lo:1", client)
server = socket.create_server(("0.0.0.0", 8000), backlog=count)
held = []
for number in range(count):
    forged = socket.socket()
    forged.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    forged.bind((client, port))
    forged.connect((f"127.0.{number // 250}.{number % 250 + 1}", 8000))
    held += [forged, server.accept()[0]]
print("forged", flush=True)
time.sleep(600)
"#;
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let limits = "limits = \"few\"\n[limits.few]\nmax_connections = 20\n";
    let guard =
        Guard::start(&scene.server, &policy(&format!("{limits}[autoblock]\nconnections = {THRESHOLD}\n")))?;
    let open = connect(&scene.client, SERVER[0], 1)?;
    let listening = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let port = open[0].local_addr()?.port().to_string();
    let log = tempfile::NamedTempFile::with_prefix(guard_tests::stale::prefix())?;
    let mut forger = scene.server.command("setpriv");
    forger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-Urn", "--"]);
    forger.args(["/usr/bin/python3", "-c", FORGE, CLIENT[0], &port, "300"]);
    let _forger = scene.server.start(forger.stdout(log.reopen()?).stderr(log.reopen()?))?;
    let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
    ensure!(wait::within(PATIENCE, || said().contains("forged")), "{}", said());
    thread::sleep(COMPARISONS);
    ensure!(!is_blocked(&guard, "10.77.1.2/32"), "{}", guard.log());
    ensure!(established(&guard)? == 2, "{}", json(&guard, &["connections"])?);
    ensure!(is_open(&open[0])? && listening.goes_on(5000, PATIENCE), "{}", guard.log());
    // Nor do they take the client's places.
    let _more = connect(&scene.client, SERVER[0], 10)?;
    Ok(())
}

/// A health checker beside a server that stands still: it closes each connection, and the server holds them all.
#[test]
fn what_the_client_has_closed_is_not_held_against_it() -> Result<()> {
    unless_hidden(8000, || {
        const CHECKS: usize = 60;
        let scene = Scene::new()?;
        let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
        let more = "limits = \"few\"\n[limits.few]\nmax_connections = 5\n[autoblock]\nconnections = 30\n";
        let guard = Guard::start(&scene.server, &policy(more))?;
        server.signal(Signal::SIGSTOP)?;
        for check in 0..CHECKS {
            let mut open = connect(&scene.client, SERVER[0], 1).with_context(|| format!("check {check}"))?;
            open[0].write_all(b"GET /health HTTP/1.1\r\nhost: server\r\n\r\n")?;
            drop(open);
            let closed = || established(&guard).is_ok_and(|open| open == 0);
            ensure!(wait::within(PATIENCE, closed), "check {check}: {}", json(&guard, &["connections"])?);
        }
        let held = scene.server.output("ss", &["-Htn", "state", "close-wait", "sport = :8000"])?.1;
        ensure!(held.lines().count() == CHECKS, "the server holds them: {held}");
        thread::sleep(COMPARISONS);
        ensure!(!is_blocked(&guard, "10.77.1.2/32"), "{}", guard.log());
        ensure!(guard.counter("web", Reason::MaxConnections)?.packets == 0, "a check was refused");
        ensure!(guard.metrics()?.contains("guard_connection_drift_total 0\n"), "{}", guard.metrics()?);
        server.signal(Signal::SIGCONT)?;
        ensure!(server.has(0, PATIENCE), "the server goes on");
        Ok(())
    })
}

/// The server streams on to a client that has closed only its own direction.
#[test]
fn a_client_that_closes_one_direction_keeps_its_place() -> Result<()> {
    const MOST: usize = 3;
    let scene = Scene::new()?;
    let listener = scene.server.enter(|| Ok(TcpListener::bind("0.0.0.0:8000")?))?;
    let more = format!("limits = \"few\"\n[limits.few]\nmax_connections = {MOST}\n");
    let guard = Guard::start(&scene.server, &policy(&more))?;
    let clients = connect(&scene.client, SERVER[0], MOST)?;
    let mut servers = clients.iter().map(|_| Ok(listener.accept()?.0)).collect::<Result<Vec<_>>>()?;
    for client in &clients {
        client.set_read_timeout(Some(PATIENCE))?;
        client.shutdown(Shutdown::Write)?;
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for server in &mut servers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && server.write_all(b"x").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        for mut client in &clients {
            scope.spawn(move || while client.read(&mut [0; 100]).is_ok_and(|read| read > 0) {});
        }
        let gauge = format!("guard_connections{{service=\"web\"}} {MOST}\n");
        let counted = wait::within(2 * COMPARISONS, || guard.metrics().is_ok_and(|all| all.contains(&gauge)));
        let refused = connect(&scene.client, SERVER[0], 1).is_err();
        stop.store(true, Ordering::Relaxed);
        clients.iter().try_for_each(|client| client.shutdown(Shutdown::Read))?;
        ensure!(counted, "{}", json(&guard, &["connections"])?);
        ensure!(refused, "one more came in");
        ensure!(guard.metrics()?.contains("guard_connection_drift_total 0\n"), "{}", guard.metrics()?);
        Ok(())
    })
}

/// 31 connections, blocked and closed; the source is let in with nothing open. What it opens afterwards counts.
#[test]
fn an_unblock_pardons_only_what_is_open_at_that_moment() -> Result<()> {
    const THRESHOLD: usize = 30;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(&format!("[autoblock]\nconnections = {THRESHOLD}\n")))?;
    for round in 0..2 {
        // The last one may be refused already.
        let open: Vec<_> = (0..=THRESHOLD).map_while(|_| connect(&scene.client, SERVER[0], 1).ok()).collect();
        ensure!(wait::within(PATIENCE, || is_blocked(&guard, "10.77.1.2/32")), "{round}: {}", guard.log());
        ensure!(wait::within(PATIENCE, || established(&guard).is_ok_and(|open| open == 0)), "{round}");
        drop(open);
        let (code, _, stderr) = guard.output(&["unblock", CLIENT[0]])?;
        ensure!(code == Some(0), "{stderr}");
    }
    Ok(())
}

/// As inference benchmarks do by default: all connections at once, each with a request.
#[test]
fn a_benchmark_with_a_thousand_connections_gets_its_answers() -> Result<()> {
    const CONNECTIONS: usize = 1000;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let address: SocketAddr = format!("{}:8000", SERVER[0]).parse()?;
    let answers = scene.client.enter(|| {
        let connect = |_| TcpStream::connect_timeout(&address, PATIENCE);
        let mut open = (0..CONNECTIONS).map(connect).collect::<std::io::Result<Vec<_>>>()?;
        for stream in &mut open {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")?;
        }
        let mut answers = 0;
        for mut stream in open {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            answers += usize::from(stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 "));
        }
        Ok(answers)
    })?;
    ensure!(answers == CONNECTIONS, "{answers} of {CONNECTIONS} were answered: {}", guard.log());
    ensure!(!is_blocked(&guard, "10.77.1.2/32"), "{}", guard.log());
    Ok(())
}
