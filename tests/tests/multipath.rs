//! Connections of Multipath TCP: a socket above those of TCP, which come and go. The server works for the one above.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::hidden::unless_hidden;
use guard_tests::multipath::{connect, listen, listen_for_both};
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::wait;
use serde_json::Value;

/// Far below the 60 s for which the kernel keeps such a socket after its last subflow.
const PATIENCE: Duration = Duration::from_secs(20);
/// Two comparisons of the count with the sockets, and some.
const COMPARED: Duration = Duration::from_secs(22);

const FIVE: &str = "limits = \"few\"\n[limits.few]\nmax_connections = 5\n";

fn policy(limits: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{limits}"
    )
}

fn open(guard: &Guard<'_>) -> Result<u64> {
    let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let list: Value = serde_json::from_str(&stdout)?;
    Ok(list.as_array().context("no list")?.iter().filter_map(|of| of["established"].as_u64()).sum())
}

fn expect(guard: &Guard<'_>, expected: u64) -> Result<()> {
    let found = || open(guard).is_ok_and(|found| found == expected);
    ensure!(wait::within(PATIENCE, found), "{} instead of {expected}", open(guard)?);
    Ok(())
}

/// Both ends of a connection over which the server streams until it is told that it is over.
struct Stream {
    client: TcpStream,
    server: JoinHandle<()>,
}

impl Stream {
    fn open(client: &Host, listener: &TcpListener) -> Result<Self> {
        Self::open_to(client, listener, SERVER[0])
    }

    fn open_to(client: &Host, listener: &TcpListener, server: &str) -> Result<Self> {
        let mut client = connect(client, server, 8000)?;
        let (mut server, _) = listener.accept()?;
        let server = thread::spawn(move || {
            while server.write_all(&[0; 100]).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        client.set_read_timeout(Some(PATIENCE))?;
        client.read_exact(&mut [0; 500])?;
        Ok(Self { client, server })
    }

    /// Whether both ends have been told that it is over, and the server's process has stopped.
    fn is_over(&mut self) -> bool {
        let client = self.client.read_to_end(&mut Vec::new());
        client.is_err() && wait::within(PATIENCE, || self.server.is_finished())
    }
}

/// As clients can, and a network that fails.
fn drop_subflows(client: &Host, server: &Host) -> Result<()> {
    drop_subflows_at(client, server, 8000)
}

/// `port` is the one that the server's sockets have.
fn drop_subflows_at(client: &Host, server: &Host, port: u16) -> Result<()> {
    let (ok, said) = client.output("ss", &["-K", "-t", "dport", "=", ":8000"])?;
    ensure!(ok, "{said}");
    let subflows =
        || server.output("ss", &["-Htn", "sport", "=", &format!(":{port}")]).map(|(_, sockets)| sockets);
    let are_gone = wait::within(PATIENCE, || subflows().is_ok_and(|sockets| sockets.trim().is_empty()));
    ensure!(are_gone, "{}", subflows()?);
    Ok(())
}

#[test]
fn a_kill_ends_multipath_connections_for_the_process_of_the_server_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let listener = listen(&scene.server, 8000)?;
    let mut guard = Guard::start(&scene.server, &policy(""))?;
    let kill = |guard: &Guard<'_>, scope: &str| -> Result<()> {
        let mut streams = [Stream::open(&scene.client, &listener)?, Stream::open(&scene.client, &listener)?];
        let (code, stdout, stderr) =
            guard.output(&["block", CLIENT[0], "--for", "1h", "--kill", "--scope", scope])?;
        ensure!(code == Some(0) && stdout.contains("2 connections were closed"), "{stdout}{stderr}");
        ensure!(streams.iter_mut().all(Stream::is_over), "{scope}");
        guard.output(&["unblock", CLIENT[0]])?;
        Ok(())
    };
    kill(&guard, "services")?;
    kill(&guard, "host")?;
    expect(&guard, 0)?;
    guard.kill()?;
    kill(&guard, "services")?;
    Ok(())
}

#[test]
fn an_automatic_kill_ends_multipath_connections_too() -> Result<()> {
    let scene = Scene::new()?;
    let listener = listen(&scene.server, 8000)?;
    let text = policy("[autoblock]\nrefused_per_minute = 5\nduration = \"1h\"\n");
    let guard = Guard::start(&scene.server, &text)?;
    let mut stream = Stream::open(&scene.client, &listener)?;
    // What the client acknowledges from here on is refused.
    std::fs::write(guard.policy_file(), text.replace(ALLOW, "[\"10.77.99.0/24\"]"))?;
    let (code, _, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{stderr}");
    let is_blocked =
        || guard.output(&["blocks", "--json"]).is_ok_and(|(_, blocks, _)| blocks.contains(CLIENT[0]));
    ensure!(wait::within(PATIENCE, is_blocked), "{}", guard.log());
    ensure!(wait::within(PATIENCE, || stream.server.is_finished()), "{}", guard.log());
    // The block keeps the packets of the client away, not those to it.
    ensure!(stream.is_over());
    Ok(())
}

#[test]
fn who_drops_subflows_and_comes_again_gets_no_more_than_the_limit() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        let listener = listen(&scene.server, 8000)?;
        let guard = Guard::start(&scene.server, &policy(FIVE))?;
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(Stream::open(&scene.client, &listener)?);
        }
        for round in 0..12 {
            drop_subflows(&scene.client, &scene.server)?;
            ensure!(connect(&scene.client, SERVER[0], 8000).is_err(), "round {round}");
        }
        ensure!(streams.iter().all(|stream| !stream.server.is_finished()), "the server works for them");
        ensure!(open(&guard)? == 5, "{}", open(&guard)?);
        thread::sleep(COMPARED);
        ensure!(open(&guard)? == 5, "{}", open(&guard)?);
        let metrics = guard.metrics()?;
        ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
        // A connection without subflows ends as well.
        let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
        ensure!(code == Some(0) && stdout.contains("5 connections were closed"), "{stdout}{stderr}");
        for stream in streams {
            ensure!(wait::within(PATIENCE, || stream.server.is_finished()), "the server goes on");
        }
        expect(&guard, 0)
    })
}

#[test]
fn further_subflows_are_no_connections() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        scene.client.ip("address add 10.77.1.9/16 dev eth0")?;
        scene.client.ip("mptcp limits set subflow 2")?;
        scene.server.ip("mptcp limits set subflow 2")?;
        scene.client.ip("mptcp endpoint add 10.77.1.9 dev eth0 subflow")?;
        let listener = listen(&scene.server, 8000)?;
        let guard = Guard::start(&scene.server, &policy(FIVE))?;
        let mut stream = Stream::open(&scene.client, &listener)?;
        let subflows = || {
            let (_, sockets) =
                scene.server.output("ss", &["-Htn", "state", "established", "sport", "=", ":8000"])?;
            Ok::<_, anyhow::Error>(sockets.lines().count())
        };
        ensure!(wait::within(PATIENCE, || subflows().is_ok_and(|count| count == 2)), "{}", subflows()?);
        expect(&guard, 1)?;
        thread::sleep(COMPARED);
        expect(&guard, 1)?;
        let metrics = guard.metrics()?;
        ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
        let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
        ensure!(code == Some(0) && stdout.contains("1 connection was closed"), "{stdout}{stderr}");
        ensure!(stream.is_over());
        expect(&guard, 0)
    })
}

/// A server that listens for both families, as one in Go does: a client of IPv4 has a mapped address there.
#[test]
fn over_either_family_the_limit_holds_and_a_kill_ends_them() -> Result<()> {
    unless_hidden(8000, || {
        let scene = Scene::new()?;
        let listener = listen_for_both(&scene.server, 8000)?;
        let guard = Guard::start(&scene.server, &policy(FIVE))?;
        for (client, server) in CLIENT.into_iter().zip(SERVER) {
            let open = |_| Stream::open_to(&scene.client, &listener, server);
            let streams = (0..5).map(open).collect::<Result<Vec<_>>>()?;
            expect(&guard, 5)?;
            drop_subflows(&scene.client, &scene.server)?;
            ensure!(connect(&scene.client, server, 8000).is_err(), "{server}: one more than the limit");
            thread::sleep(COMPARED);
            ensure!(open_now(&guard, client)? == 5, "{server}: {}", open_now(&guard, client)?);
            ends(&guard, client, streams)?;
        }
        let metrics = guard.metrics()?;
        ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
        Ok(())
    })
}

/// Behind a published port of a container the socket has another port, and conntrack forgets the connection soon after its last subflow.
#[test]
fn behind_a_published_port_the_limit_holds_and_a_kill_ends_them() -> Result<()> {
    unless_hidden(9000, || {
        let scene = Scene::new()?;
        let container = scene.server.publish(8000, 9000)?;
        let listener = listen(&container, 9000)?;
        let mut guard = Guard::start(&scene.server, &policy(FIVE))?;
        let streams =
            |count| (0..count).map(|_| Stream::open(&scene.client, &listener)).collect::<Result<Vec<_>>>();
        let five = streams(5)?;
        expect(&guard, 5)?;
        drop_subflows_at(&scene.client, &container, 9000)?;
        ensure!(connect(&scene.client, SERVER[0], 8000).is_err(), "one more than the limit");
        // Conntrack keeps what was reset for ten seconds.
        thread::sleep(COMPARED);
        ensure!(open_now(&guard, CLIENT[0])? == 5, "{}", open_now(&guard, CLIENT[0])?);
        ends(&guard, CLIENT[0], five)?;
        let two = streams(2)?;
        guard.kill()?;
        ends(&guard, CLIENT[0], two)
    })
}

fn open_now(guard: &Guard<'_>, client: &str) -> Result<u64> {
    let (_, stdout, _) = guard.output(&["connections", "--json"])?;
    let list: Vec<Value> = serde_json::from_str(&stdout)?;
    let is_of = |of: &&Value| {
        let source = of["source"].as_str().and_then(|source| source.parse::<ipnet::IpNet>().ok());
        source.zip(client.parse::<IpAddr>().ok()).is_some_and(|(net, client)| net.contains(&client))
    };
    Ok(list.iter().filter(is_of).filter_map(|of| of["established"].as_u64()).sum())
}

/// A kill by command ends all of these streams.
fn ends(guard: &Guard<'_>, client: &str, streams: Vec<Stream>) -> Result<()> {
    let (code, stdout, stderr) = guard.output(&["block", client, "--kill", "--scope", "services"])?;
    let closed = format!("{} connections were closed", streams.len());
    ensure!(code == Some(0) && stdout.contains(&closed), "{stdout}{stderr}");
    for stream in streams {
        ensure!(wait::within(PATIENCE, || stream.server.is_finished()), "the server goes on");
    }
    guard.output(&["unblock", client])?;
    Ok(())
}

/// A descriptor that no process has open, but in a message under way: guard cannot reach it.
#[test]
fn a_multipath_connection_that_cannot_be_ended_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let listener = listen(&scene.server, 8000)?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let client = connect(&scene.client, SERVER[0], 8000)?;
    let (server, _) = listener.accept()?;
    let _in_flight = in_flight(server)?;
    expect(&guard, 1)?;
    let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", "services"])?;
    ensure!(code == Some(1) && stderr.contains("net.mptcp.close_timeout"), "{stdout}{stderr}");
    ensure!(stderr.contains("1 connection goes on"), "{stderr}");
    drop(client);
    Ok(())
}

/// Sends a socket to nobody, and closes it.
fn in_flight(socket: TcpStream) -> Result<[std::os::unix::net::UnixStream; 2]> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (from, to) = std::os::unix::net::UnixStream::pair()?;
    let descriptors = [socket.as_raw_fd()];
    let message = [std::io::IoSlice::new(b"x")];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(from.as_raw_fd(), &message, &control, MsgFlags::empty(), None)?;
    Ok([from, to])
}
