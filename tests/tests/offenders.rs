//! Sources that are blocked by themselves, and those that nobody can get blocked.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use guard_common::Reason;
use guard_common::abi::End;
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene, to_server};
use guard_tests::streams::{StreamingServer, stream};
use ipnet::IpNet;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(60);
/// Of concurrent connections.
const THRESHOLD: usize = 30;

/// A frame of a flood, by a number that goes up with each.
type Shape<'a> = &'a (dyn Fn(u16) -> Frame + Sync);

fn policy(limits: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n{limits}\n\
         [autoblock]\nconnections = {THRESHOLD}\nrefused_per_minute = 300\nlimited_per_minute = 300\n"
    )
}

/// Waits until the packet path blocks a source. Returns since when, at the latest.
fn blocked(guard: &Guard<'_>, net: &str, patience: Duration) -> Result<Option<Instant>> {
    let (maps, net): (_, IpNet) = (guard.maps()?, net.parse()?);
    let deadline = Instant::now() + patience;
    loop {
        if maps.block(&net)?.is_some_and(|block| block.services_until != End::NONE) {
            return Ok(Some(Instant::now()));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn blocks(guard: &Guard<'_>) -> Result<Vec<Value>> {
    let (code, stdout, stderr) = guard.output(&["blocks", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    Ok(serde_json::from_str(&stdout)?)
}

#[test]
fn who_opens_connections_in_a_loop_is_blocked_and_loses_its_streams() -> Result<()> {
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    // Three streams of the offender, one of somebody else.
    let offender: Vec<_> = (0..3).map(|_| stream(&scene.client, SERVER[0])).collect::<Result<_>>()?;
    let other = stream(&scene.client, SERVER[1])?;
    ensure!(server.has(4, PATIENCE));
    let crossed = AtomicU64::new(0);
    let begun = Instant::now();
    let (at, open) = thread::scope(|scope| {
        let looping = scope.spawn(|| {
            scene.client.enter(|| {
                let address = format!("{}:8000", SERVER[0]).parse()?;
                let mut open: Vec<TcpStream> = Vec::new();
                while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                    open.push(stream);
                    // With its streams this one is over the threshold.
                    if open.len() + offender.len() == THRESHOLD + 1 {
                        crossed.store(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
                    }
                }
                Ok(open.len())
            })
        });
        let at = blocked(&guard, "10.77.1.2/32", PATIENCE);
        let open = looping.join().map_err(|_| anyhow!("the loop panicked"));
        Ok::<_, anyhow::Error>((at?, open??))
    })?;
    let at = at.with_context(|| format!("nobody is blocked after {open} connections: {}", guard.log()))?;
    let crossed = begun + Duration::from_micros(crossed.load(Ordering::SeqCst));
    let took = at.saturating_duration_since(crossed);
    ensure!(server.has(1, PATIENCE), "its streams end: {} run", server.active()?);
    println!(
        "blocked {took:?} after the threshold, {open} connections were opened; streams ended {:?} after it",
        crossed.elapsed()
    );
    // The kernel has reported it: the agent's own comparison comes only every ten seconds.
    ensure!(took < Duration::from_secs(3), "{took:?}");
    let list = blocks(&guard)?;
    ensure!(list.len() == 1 && list[0]["origin"] == "auto" && list[0]["scope"] == "services", "{list:?}");
    let evidence = &list[0]["evidence"];
    ensure!(
        evidence["kind"] == "connections" && evidence["count"].as_u64() > Some(THRESHOLD as u64),
        "{evidence}"
    );
    // Somebody else loses nothing.
    ensure!(other.goes_on(5000, PATIENCE), "the other stream goes on");
    ensure!(server.has(1, PATIENCE));
    let metrics = guard.metrics()?;
    for line in ["guard_blocks{origin=\"auto\"} 1\n", "guard_blocks_added_total{origin=\"auto\"} 1\n"] {
        ensure!(metrics.contains(line), "{line} {metrics}");
    }
    ensure!(!metrics.contains("guard_sockets_killed_total 0\n"), "{metrics}");
    let (_, events, _) = guard.output(&["events"])?;
    ensure!(
        events.contains("block 10.77.1.2/32, done, by guard") && events.contains("kill 10.77.1.2/32"),
        "{events}"
    );
    Ok(())
}

/// Sends what `frame` makes, again and again from two threads, until told to stop, with a pause after each. Returns how many.
fn flood(
    scene: &Scene,
    stop: &AtomicBool,
    pause: Duration,
    frame: impl Fn(u16) -> Frame + Sync,
) -> Result<u64> {
    let sent = AtomicU64::new(0);
    let send = || -> Result<()> {
        let wire = Wire::open(&scene.stranger)?;
        let frames: Vec<_> = (1024..u16::MAX).step_by(61).map(|port| forged(scene, frame(port))).collect();
        while !stop.load(Ordering::Relaxed) {
            for frame in &frames {
                wire.send(frame)?;
                sent.fetch_add(1, Ordering::Relaxed);
                if !pause.is_zero() {
                    thread::sleep(pause);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(send), scope.spawn(send)];
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a sender panicked"))?)
    })?;
    Ok(sent.load(Ordering::Relaxed))
}

/// From the stranger's card.
fn forged(scene: &Scene, frame: Frame) -> Vec<u8> {
    Frame { source_mac: scene.stranger.mac(), ..to_server(frame) }.build()
}

#[test]
fn nobody_gets_a_client_blocked_by_forging_its_address() -> Result<()> {
    const TIME: Duration = Duration::from_secs(3);
    const LIMITS: &str = "limits = \"client\"\n[limits.client]\npackets_per_second = 1000\npacket_burst = 2000\nconnections_per_second = 10\nconnection_burst = 20\nmax_connections = 25\n";
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(LIMITS))?;
    let listening = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let syn = |source_port| Frame::new(CLIENT[0], Transport::Tcp { source_port, port: 8000, flags: SYN });
    let ack = |source_port| Frame::new(CLIENT[0], Transport::Tcp { source_port, port: 8000, flags: ACK });
    let udp = |source_port| Frame::new(CLIENT[0], Transport::Udp { source_port, port: 8000 });
    let floods: [(&str, Reason, bool, Shape<'_>); 3] = [
        ("SYN", Reason::ConnectionRate, true, &syn),
        // These use up what the client has left: its stream waits, and nobody can tell them from its own but by their ports.
        ("UDP", Reason::PacketRate, false, &udp),
        ("ACK to all ports", Reason::PacketRate, false, &ack),
    ];
    for (name, reason, goes_on, frame) in floods {
        let before = (listening.heard()?, guard.counter("web", reason)?.packets);
        let stop = AtomicBool::new(false);
        let (sent, progress) = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&scene, &stop, Duration::ZERO, frame));
            thread::sleep(TIME);
            let progress = listening.heard().map(|now| now - before.0);
            stop.store(true, Ordering::Relaxed);
            let sent = flooding.join().map_err(|_| anyhow!("the flood panicked"))??;
            Ok::<_, anyhow::Error>((sent, progress?))
        })?;
        let limited = guard.counter("web", reason)?.packets - before.1;
        println!(
            "{name}: {sent} sent, {limited} over the limit, the stream brought {progress} bytes meanwhile"
        );
        ensure!(limited > 10_000, "{name}: {limited} of {sent}");
        // Fifty words a second, each of a hundred bytes.
        ensure!(!goes_on || progress > 5000, "{name}: the stream brought {progress} bytes in {TIME:?}");
        ensure!(blocks(&guard)?.is_empty(), "{name}: {:?}", blocks(&guard)?);
    }
    ensure!(listening.goes_on(5000, PATIENCE), "the stream goes on");
    ensure!(server.has(1, PATIENCE), "and is the same one");
    Ok(())
}

/// A client that sends much, and keeps its limits. Whoever forges its address takes from what it may send; what is dropped of its own packets is
/// no evidence, though they are of an established connection.
#[test]
fn nobody_gets_a_busy_client_blocked_either() -> Result<()> {
    const TIME: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(60);
    /// Nine tenths of what it may.
    const PACE: Duration = Duration::from_micros(1111);
    /// Of each of two senders: with the client's own just over what is allowed, so that most of the forged ones pass.
    const A_FEW: Duration = Duration::from_millis(5);
    // Nothing but packets is limited: forged SYNs take from them, too.
    const LIMITS: &str =
        "limits = \"client\"\n[limits.client]\npackets_per_second = 1000\npacket_burst = 200\n";
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(LIMITS))?;
    let open = guard_tests::streams::connect(&scene.client, SERVER[0], 1)?;
    let its_port = open[0].local_addr()?.port();
    let tcp = |source_port, flags| Frame::new(CLIENT[0], Transport::Tcp { source_port, port: 8000, flags });
    let own = Frame { source_mac: scene.client.mac(), ..to_server(tcp(its_port, ACK)) }.build();
    let syn = |source_port| tcp(source_port, SYN);
    let udp = |source_port| Frame::new(CLIENT[0], Transport::Udp { source_port, port: 8000 });
    let ack = |source_port| tcp(source_port, ACK);
    let floods: [(&str, Duration, Shape<'_>); 6] = [
        // First: later ones may be outweighed by what a flood has left.
        ("ACK, a few", A_FEW, &ack),
        ("SYN, a few", A_FEW, &syn),
        ("UDP, a few", A_FEW, &udp),
        ("SYN", Duration::ZERO, &syn),
        ("UDP", Duration::ZERO, &udp),
        ("ACK to all ports", Duration::ZERO, &ack),
    ];
    for (name, pause, frame) in floods {
        let before = guard.counter("web", Reason::PacketRate)?.packets;
        let stop = AtomicBool::new(false);
        let own_sent = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&scene, &stop, pause, frame));
            let sending = scope.spawn(|| -> Result<u64> {
                let (wire, begun) = (Wire::open(&scene.client)?, Instant::now());
                let mut sent = 0;
                // On a busy machine it takes longer until the flood has taken enough.
                let mut enough = false;
                while begun.elapsed() < TIME || !enough && begun.elapsed() < LONGEST {
                    if sent % 256 == 0 {
                        enough = guard.counter("web", Reason::PacketRate)?.packets - before > 500;
                    }
                    wire.send(&own)?;
                    sent += 1;
                    thread::sleep((begun + PACE * sent).saturating_duration_since(Instant::now()));
                }
                Ok(sent.into())
            });
            let sent = sending.join().map_err(|_| anyhow!("the client panicked"));
            stop.store(true, Ordering::Relaxed);
            flooding.join().map_err(|_| anyhow!("the flood panicked"))??;
            sent?
        })?;
        let limited = guard.counter("web", Reason::PacketRate)?.packets - before;
        println!("{name}: {own_sent} of the client, {limited} over the limit, forged ones included");
        ensure!(blocks(&guard)?.is_empty(), "{name}: {:?}", blocks(&guard)?);
        // What it has lost would be evidence enough.
        ensure!(own_sent > 3000 && limited > 400, "{name}: {own_sent}, {limited}");
        let (_, explained, _) = guard.output(&["explain", CLIENT[0], "--port", "8000"])?;
        ensure!(explained.contains("its packets are weighed"), "{name}: it is no suspect: {explained}");
    }
    Ok(())
}

#[test]
fn who_goes_on_over_its_limit_on_a_connection_is_blocked() -> Result<()> {
    const LIMITS: &str = "limits = \"slow\"\n[limits.slow]\npackets_per_second = 50\npacket_burst = 50\n";
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy(LIMITS))?;
    let open = guard_tests::streams::connect(&scene.client, SERVER[0], 1)?;
    let port = open[0].local_addr()?.port();
    let wire = Wire::open(&scene.client)?;
    let frame = Frame::new(CLIENT[0], Transport::Tcp { source_port: port, port: 8000, flags: ACK });
    let frame = Frame { source_mac: scene.client.mac(), ..to_server(frame) }.build();
    let begun = Instant::now();
    for _ in 0..2000 {
        wire.send(&frame)?;
        thread::sleep(Duration::from_micros(500));
    }
    let at = blocked(&guard, "10.77.1.2/32", PATIENCE)?.with_context(|| guard.log())?;
    println!("blocked at the latest {:?} after the first packet", at - begun);
    let list = blocks(&guard)?;
    ensure!(list[0]["evidence"]["kind"] == "limited", "{list:?}");
    Ok(())
}

/// Whoever lets a client in at night does not want to do it again ten seconds later.
#[test]
fn who_is_let_in_keeps_what_it_has_open() -> Result<()> {
    const OPEN: usize = THRESHOLD + 10;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &format!("{}kill = false\n", policy("")))?;
    let connect = |count| guard_tests::streams::connect(&scene.client, SERVER[0], count);
    // The one over the threshold is blocked before the next.
    let mut open = connect(THRESHOLD + 1)?;
    blocked(&guard, "10.77.1.2/32", PATIENCE)?.with_context(|| guard.log())?;
    let (code, _, stderr) = guard.output(&["unblock", CLIENT[0]])?;
    ensure!(code == Some(0), "{stderr}");
    open.extend(connect(1)?);
    // Longer than from one comparison with the sockets to the next.
    ensure!(blocked(&guard, "10.77.1.2/32", Duration::from_secs(12))?.is_none(), "{}", guard.log());
    let more = connect(OPEN - open.len());
    let at = blocked(&guard, "10.77.1.2/32", PATIENCE)?;
    ensure!(at.is_some(), "it has more than it was let in with: {}", guard.log());
    drop((open, more));
    Ok(())
}
