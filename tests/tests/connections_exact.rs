//! The kernel's count of connections is that of the sockets, after very many of them, however they end.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::hidden::Hidden;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8000;
/// Connections of each of two clients.
const EACH: usize = 50_000;
/// So many of each are open at a time.
const OPEN: usize = 100;
/// Addresses of each, so that ports do not run out.
const ADDRESSES: u8 = 8;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nallow = {ALLOW}\n"
    )
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ClientCloses,
    ClientResets,
    ServerCloses,
    ServerResets,
}

impl End {
    const ALL: [Self; 4] = [Self::ClientCloses, Self::ClientResets, Self::ServerCloses, Self::ServerResets];

    fn random() -> Self {
        Self::ALL[fastrand::usize(..Self::ALL.len())]
    }
}

/// Runs on a host: sockets belong to where they are made.
fn on<T: Send, F: Future<Output = Result<T>>>(host: &Host, work: impl FnOnce() -> F + Send) -> Result<T> {
    host.enter(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work()))
}

/// Accepts until told to stop, and ends the connections that say so; the others their clients end.
async fn serve(stop: oneshot::Receiver<()>, ready: std::sync::mpsc::Sender<()>) -> Result<()> {
    let socket = TcpSocket::new_v6()?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
    let listener: TcpListener = socket.listen(4096)?;
    ready.send(())?;
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(answer(stream));
        }
    };
    tokio::select! {
        result = accept => result,
        _ = stop => Ok(()),
    }
}

async fn answer(mut stream: TcpStream) {
    let mut said = [0; 1];
    while let Ok(1) = stream.read(&mut said).await {
        match said[0] {
            b's' => return,
            b'r' => {
                let _ = stream.set_zero_linger();
                return;
            }
            _ => {}
        }
    }
}

/// Opens many connections and ends them in random order and ways. Returns those that are left open, by their address.
async fn come_and_go(server: IpAddr, addresses: Vec<IpAddr>) -> Result<Vec<(IpAddr, TcpStream)>> {
    let mut open: Vec<(IpAddr, TcpStream)> = Vec::new();
    for number in 0..EACH {
        if open.len() >= OPEN {
            let (_, stream) = open.swap_remove(fastrand::usize(..open.len()));
            end(stream, End::random()).await?;
        }
        let address = addresses[number % addresses.len()];
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::from((address, 0)))?;
        let stream = socket.connect((server, PORT).into()).await.context("connect")?;
        open.push((address, stream));
    }
    Ok(open)
}

async fn end(mut stream: TcpStream, end: End) -> Result<()> {
    match end {
        End::ClientCloses => {}
        End::ClientResets => stream.set_zero_linger()?,
        End::ServerCloses | End::ServerResets => {
            let word = if end == End::ServerCloses { b"s" } else { b"r" };
            stream.write_all(word).await?;
            // Until it does.
            while let Ok(1..) = stream.read(&mut [0; 16]).await {}
        }
    }
    Ok(())
}

/// What the kernel counts: connections of each source that has some.
fn counted(guard: &Guard<'_>) -> Result<BTreeMap<String, u64>> {
    let maps = guard.maps()?;
    let counts = maps.connections()?.into_iter().filter(|(_, count)| *count != 0);
    Ok(counts.map(|(source, count)| (maps.source_net(&source).to_string(), count)).collect())
}

/// How many connections the agent has found to be counted wrongly.
fn drift(guard: &Guard<'_>) -> Result<u64> {
    let metrics = guard.metrics()?;
    let value = metrics.lines().find_map(|line| line.strip_prefix("guard_connection_drift_total "));
    value.context("no metric of the drift")?.parse().context("the drift is no number")
}

#[test]
fn counts_are_exact_after_a_hundred_thousand_connections() -> Result<()> {
    let scene = Scene::new()?;
    let v4: Vec<IpAddr> = (10..10 + ADDRESSES).map(|last| Ipv4Addr::new(10, 77, 1, last).into()).collect();
    let v6: Vec<IpAddr> = (0x10..0x10 + u16::from(ADDRESSES))
        .map(|last| Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 1, last).into())
        .collect();
    for address in &v4 {
        scene.client.ip(&format!("address add {address}/16 dev eth0"))?;
    }
    for address in &v6 {
        scene.stranger.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
    }
    let guard = Guard::start(&scene.server, &policy())?;
    let hidden = Hidden::watch(PORT)?;
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| on(&scene.server, || serve(stopped, ready)));
        is_ready.recv_timeout(PATIENCE).context("the server does not listen")?;
        let clients =
            [(&scene.client, SERVER[0], &v4), (&scene.stranger, SERVER[1], &v6)].map(|(host, to, from)| {
                scope.spawn(move || {
                    on(host, || async move {
                        come_and_go(to.parse()?, from.clone())
                            .await?
                            .into_iter()
                            .map(|(address, stream)| Ok((address, stream.into_std()?)))
                            .collect::<Result<Vec<_>>>()
                    })
                })
            });
        let mut open = Vec::new();
        for client in clients {
            open.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (address, _) in &open {
            let source = if address.is_ipv4() { format!("{address}/32") } else { "fd00:77::/64".into() };
            *expected.entry(source).or_default() += 1;
        }
        let exact = || counted(&guard).is_ok_and(|counted| counted == expected);
        ensure!(wait::within(PATIENCE, exact), "counted {:?}\nexpected {expected:?}", counted(&guard)?);
        drop(open);
        let none = || counted(&guard).is_ok_and(|counted| counted.is_empty());
        ensure!(wait::within(PATIENCE, none), "all are closed; counted {:?}", counted(&guard)?);
        // Nothing of that was a correction, but of what was hidden.
        let (drift, hidden) = (drift(&guard)?, hidden.count()?);
        ensure!(drift <= hidden, "{drift} counted wrongly, {hidden} changes hidden\n{}", guard.log());
        println!("{drift} connections corrected, {hidden} changes that may have been hidden");
        let _ = stop.send(());
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}
