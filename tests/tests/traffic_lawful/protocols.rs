//! Clients that speak more than HTTP/1.1 over plain TCP: HTTP/2, TCP Fast Open, MPTCP.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};
use guard_tests::scene::{SERVER, Scene};
use guard_tests::{stale, wait};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::work::h2load;
use super::{PATIENCE, PORT, enforced, loses_nothing, policies, serve};

#[test]
fn many_streams_of_http2_lose_nothing() -> Result<()> {
    let files = tempfile::Builder::new().prefix(&stale::prefix()).tempdir()?;
    fs::write(files.path().join("answer"), "word ".repeat(1000))?;
    let url = format!("http://{}:{PORT}/answer", SERVER[0]);
    for policy in policies()? {
        let scene = Scene::new()?;
        let _server = nghttpd(&scene.server, &files.path().display().to_string())?;
        let guard = Guard::start(&scene.server, &enforced(&policy)?)?;
        for (connections, streams, requests) in [("1", "1000", 5000), ("20", "100", 5000)] {
            let who = format!("{connections} connections with {streams} streams each");
            loses_nothing(&guard, &who, 100, || {
                h2load(&scene.client, requests, &["-c", connections, "-m", streams, &url])
            })?;
        }
    }
    Ok(())
}

fn nghttpd(host: &Host, files: &str) -> Result<Running> {
    let mut command = host.command("nghttpd");
    let server = host.start(command.args(["--no-tls", "-m", "1000", "-d", files, &PORT.to_string()]))?;
    let url = format!("http://127.0.0.1:{PORT}/answer");
    let asks = ["-sf", "-m", "1", "--http2-prior-knowledge", "-o", "/dev/null", &url];
    ensure!(
        wait::within(PATIENCE, || host.output("curl", &asks).is_ok_and(|(ok, _)| ok)),
        "nghttpd does not listen"
    );
    Ok(server)
}

/// A SYN that carries its request is answered before the handshake ends.
#[test]
fn fast_open_clients_lose_nothing() -> Result<()> {
    const REQUESTS: u64 = 100;
    let url = format!("http://{}:{PORT}/health?[1-{REQUESTS}]", SERVER[0]);
    for policy in policies()? {
        let scene = Scene::new()?;
        // Clients, servers, and every listener without being asked.
        let all = |host: &Host| host.enter(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027")?));
        all(&scene.server)?;
        all(&scene.client)?;
        let _server = serve(&scene.server)?;
        let guard = Guard::start(&scene.server, &enforced(&policy)?)?;
        loses_nothing(&guard, "a Fast Open client", 4 * REQUESTS, || {
            let asks = ["-sSf", "-m", "60", "--tcp-fastopen", "-H", "connection: close", &url];
            let (ok, said) = scene.client.output("curl", &asks)?;
            ensure!(ok && said.matches("ok\n").count() as u64 == REQUESTS, "{said}");
            Ok(())
        })?;
        let opened = count(&scene.server, "TcpExt:", "TCPFastOpenPassive")?;
        ensure!(opened >= REQUESTS / 2, "only {opened} of {REQUESTS} connections were opened fast");
    }
    Ok(())
}

/// Go listens with MPTCP by default, and a client with two addresses uses both.
#[test]
fn mptcp_clients_lose_nothing() -> Result<()> {
    const CLIENTS: usize = 100;
    for policy in policies()? {
        let scene = Scene::new()?;
        scene.client.ip("address add 10.77.1.50/16 dev eth0")?;
        scene.client.ip("mptcp endpoint add 10.77.1.50 dev eth0 subflow")?;
        for host in [&scene.client, &scene.server] {
            host.ip("mptcp limits set subflow 1")?;
        }
        let address: SocketAddr = format!("{}:{PORT}", SERVER[0]).parse()?;
        let listener = scene.server.enter(|| {
            let listener = mptcp(address)?;
            listener.bind(&SockAddr::from(address))?;
            Ok(listener.listen(1024).map(|()| listener)?)
        })?;
        let guard = Guard::start(&scene.server, &enforced(&policy)?)?;
        let joins = || count(&scene.server, "MPTcpExt:", "MPJoinAckRx");
        loses_nothing(&guard, "MPTCP clients", 4 * CLIENTS as u64, || {
            thread::scope(|scope| {
                let server = scope.spawn(|| answer(&listener, CLIENTS));
                let clients = open(&scene.client, address, CLIENTS)?;
                ensure!(wait::within(PATIENCE, || joins().is_ok_and(|joins| joins >= CLIENTS as u64 / 2)));
                clients.into_iter().try_for_each(ask)?;
                server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
            })
        })?;
        let capable = count(&scene.server, "MPTcpExt:", "MPCapableACKRX")?;
        ensure!(capable >= CLIENTS as u64, "only {capable} of {CLIENTS} connections are MPTCP's");
    }
    Ok(())
}

fn mptcp(address: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)).context("the kernel has no MPTCP")
}

fn open(host: &Host, server: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    host.enter(|| {
        let open = |_| {
            let client = mptcp(server)?;
            client.connect_timeout(&SockAddr::from(server), PATIENCE)?;
            let mut client = TcpStream::from(client);
            client.set_read_timeout(Some(PATIENCE))?;
            // The second way is opened once the first has carried something.
            client.write_all(b"GE")?;
            Ok(client)
        };
        (0..count).map(open).collect()
    })
}

fn ask(mut client: TcpStream) -> Result<()> {
    client.write_all(b"T / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).context("no answer")?;
    ensure!(answer.ends_with("ok"), "{answer}");
    Ok(())
}

/// Answers so many clients, each once it has said all.
fn answer(listener: &Socket, clients: usize) -> Result<()> {
    let accepted: Vec<TcpStream> =
        (0..clients).map(|_| Ok(TcpStream::from(listener.accept()?.0))).collect::<Result<_>>()?;
    for mut client in accepted {
        client.set_read_timeout(Some(PATIENCE))?;
        let mut request = Vec::new();
        let mut part = [0; 64];
        while !request.ends_with(b"\r\n\r\n") {
            let length = client.read(&mut part)?;
            ensure!(length > 0, "a client went away");
            request.extend_from_slice(&part[..length]);
        }
        client.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
    }
    Ok(())
}

/// What a host's kernel has counted.
fn count(host: &Host, group: &str, name: &str) -> Result<u64> {
    let text = host.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = lines.next().zip(lines.next()).context("no such group")?;
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = both.find(|(found, _)| *found == name).with_context(|| format!("no {name}"))?;
    Ok(value.parse()?)
}
