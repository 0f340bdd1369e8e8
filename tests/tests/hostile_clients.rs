//! Clients of the two servers that mean harm: whoever else asks gets an answer, and the agent does its work meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::Address;
use guard_common::abi::{Service, ServiceId, SourceKey};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long an honest client may have to wait: by far longer than an answer takes, by far shorter than attackers hold out.
const WAIT: &str = "5";

fn policy(more: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{more}"
    )
}

fn metrics() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9455))
}

/// A connection to the metrics port that never waits for long.
fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect(metrics()).context("cannot connect")?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    Ok(stream)
}

fn is_answered(guard: &Guard<'_>, scene: &Scene, page: &str) -> Result<bool> {
    let url = format!("http://{}{page}", metrics());
    let (ok, _) = scene.server.output("curl", &["-sf", "-m", WAIT, "-o", "/dev/null", &url])?;
    ensure!(guard.pid().is_ok(), "the agent has ended");
    Ok(ok)
}

/// Blocks and ends blocks, and says how often that was done.
fn blocks_done(guard: &Guard<'_>, rounds: u32) -> Result<u32> {
    let mut done = 0;
    for number in 0..rounds {
        let (code, _, stderr) = guard.output(&["block", &format!("10.90.0.{number}"), "--for", "1h"])?;
        ensure!(code == Some(0), "{stderr}");
        done += 1;
    }
    Ok(done)
}

/// Threads of the agent.
fn threads(guard: &Guard<'_>) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/task", guard.pid()?))?.count())
}

/// A figure in kB of the agent's memory.
fn memory(guard: &Guard<'_>, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
    line.split_whitespace().next().context("no number")?.parse().context("no number")
}

#[test]
fn clients_that_pipeline_and_do_not_read_leave_metrics_and_health_to_others() -> Result<()> {
    const ATTACKERS: usize = 64;
    const ROUNDS: usize = 10;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let attack = || {
        let mut streams = (0..ATTACKERS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        // Each sends until neither side has room for more.
        for stream in &mut streams {
            while stream.write_all(request.as_bytes()).is_ok() {}
        }
        Ok(streams)
    };
    let streams = scene.server.enter(attack)?;
    for round in 0..ROUNDS {
        for page in ["/healthz", "/metrics"] {
            ensure!(is_answered(&guard, &scene, page)?, "{page} in round {round}");
        }
    }
    drop(streams);
    Ok(())
}

#[test]
fn silent_clients_and_slow_heads_leave_metrics_and_health_to_others() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let attack = || {
        let mut streams = Vec::new();
        for number in 0..1000 {
            let mut stream = connect()?;
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")?;
            }
            streams.push(stream);
        }
        Ok(streams)
    };
    let streams = scene.server.enter(attack)?;
    for page in ["/healthz", "/metrics", "/readyz"] {
        ensure!(is_answered(&guard, &scene, page)?, "{page}");
    }
    drop(streams);
    Ok(())
}

/// Sources with connections, so that a scrape that names some of them takes a while.
fn many_sources(guard: &Guard<'_>) -> Result<()> {
    let mut maps = guard.maps()?;
    let id: ServiceId = *maps.service_names()?.get("web").context("no service")?;
    let service = Service::new(false, 32, 64);
    let source =
        |number: u32| SourceKey::new(id, &service, Address::v4((10 << 24 | number << 4).to_be_bytes()));
    maps.write_connections(&(0..100_000).map(|number| (source(number), 2)).collect::<Vec<_>>())?;
    Ok(())
}

#[test]
fn scrapes_that_are_reset_take_no_threads_and_hold_up_no_block() -> Result<()> {
    const ATTACK: Duration = Duration::from_secs(8);
    // Runtime, blocking work of the agent, metrics, health.
    const MOST: usize = 40;
    let scene = Scene::new()?;
    let guard = Guard::start(
        &scene.server,
        &policy(
            "[metrics]\nlisten = \"127.0.0.1:9455\"\ntop_sources = 10\n[capacity]\nsources = 262144\nconnections = 131072\n",
        ),
    )?;
    many_sources(&guard)?;
    let (ends, resets) = (AtomicBool::new(false), AtomicU32::new(0));
    let attack = || -> Result<()> {
        while !ends.load(Ordering::Relaxed) {
            let mut stream = connect()?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
            thread::sleep(Duration::from_millis(3));
            // The end is a reset.
            setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            drop(stream);
            resets.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<()> {
        let attacker = scope.spawn(|| scene.server.enter(attack));
        let result = (|| -> Result<()> {
            let begun = Instant::now();
            let (mut most, mut rounds) = (0, 0);
            while begun.elapsed() < ATTACK {
                most = most.max(threads(&guard)?);
                blocks_done(&guard, 1)?;
                ensure!(is_answered(&guard, &scene, "/healthz")?, "health");
                rounds += 1;
            }
            println!("{rounds} blocks beside {} resets, {most} threads", resets.load(Ordering::Relaxed));
            ensure!(most <= MOST, "{most} threads");
            ensure!(resets.load(Ordering::Relaxed) > 100, "there was an attack");
            // One block a second is what somebody at a keyboard needs.
            ensure!(rounds >= 8, "{rounds} blocks in {ATTACK:?}");
            Ok(())
        })();
        ends.store(true, Ordering::Relaxed);
        let attacked = attacker.join().unwrap_or_else(|_| anyhow::bail!("the attacker has failed"));
        result.and(attacked)
    })?;
    // A scrape of this size takes seconds on a machine that is slow and busy.
    let url = format!("http://{}/metrics", metrics());
    let is_there =
        || scene.server.output("curl", &["-sf", "-m", "30", "-o", "/dev/null", &url]).is_ok_and(|(ok, _)| ok);
    ensure!(wait::within(3 * PATIENCE, is_there), "metrics");
    Ok(())
}

/// Connections to the control socket of another user than root, each with a body that never ends.
fn slow_bodies(guard: &Guard<'_>, count: usize) -> Result<Vec<UnixStream>> {
    const NOBODY: u32 = 65534;
    let socket = guard.socket();
    fs::set_permissions(socket.parent().context("a directory")?, fs::Permissions::from_mode(0o755))?;
    // As for a member of the group.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let connect = || -> Result<Vec<UnixStream>> {
        // SAFETY: changes the user of this thread alone, which ends here; numbers only.
        #[expect(unsafe_code, reason = "the library would change the user of every thread")]
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        ensure!(changed == 0, "cannot become another user");
        let head = "POST /v1/block HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{\"nets\": [";
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = UnixStream::connect(&socket).context("cannot connect")?;
            // It may be cut off at any moment.
            let _ = stream.write_all(head.as_bytes());
            streams.push(stream);
        }
        Ok(streams)
    };
    thread::scope(|scope| scope.spawn(connect).join())
        .unwrap_or_else(|_| anyhow::bail!("a thread has failed"))
}

#[test]
fn slow_bodies_of_a_user_leave_the_control_socket_to_root() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let streams = slow_bodies(&guard, 80)?;
    let waits = Instant::now();
    ensure!(blocks_done(&guard, 5)? == 5);
    // A body is waited for twice as long, and before it was for a minute.
    ensure!(waits.elapsed() < PATIENCE, "root has waited for {:?}", waits.elapsed());
    drop(streams);
    Ok(())
}

#[test]
fn long_bodies_at_once_take_the_memory_of_one() -> Result<()> {
    const CLIENTS: usize = 8;
    const LENGTH: usize = 60 << 20;
    // One body, what is read of it, and room for the allocator: in kB.
    const MOST: u64 = 400 << 10;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let entry = b"\"10.90.0.1/32\",";
    let mut body =
        b"{\"scope\":\"host\",\"lasts\":null,\"reason\":null,\"caller\":null,\"force\":false,\"nets\":["
            .to_vec();
    while body.len() < LENGTH - 64 {
        body.extend_from_slice(entry);
    }
    body.extend_from_slice(b"\"10.90.0.1/32\"]}");
    let before = memory(&guard, "VmHWM:")?;
    let ask = || -> Result<String> {
        let mut stream = UnixStream::connect(guard.socket())?;
        let length = body.len();
        let head = format!(
            "POST /v1/block HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        // The agent may refuse it before the end.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        Ok(answer)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        ensure!(
            wait::within(PATIENCE, || is_answered(&guard, &scene, "/healthz").unwrap_or(false)),
            "health"
        );
        for client in clients {
            let answer = client.join().unwrap_or_else(|_| anyhow::bail!("a client has failed"))?;
            println!("{}", answer.lines().next().unwrap_or("cut off"));
        }
        Ok(())
    })?;
    let grown = memory(&guard, "VmHWM:")?.saturating_sub(before);
    println!("{} MiB at most", grown >> 10);
    ensure!(grown < MOST, "memory has grown by {grown} kB");
    ensure!(blocks_done(&guard, 1)? == 1);
    Ok(())
}
