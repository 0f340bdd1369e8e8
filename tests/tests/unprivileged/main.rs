//! A user without rights on the host, with a thousand user and network namespaces: guard stays on the card, starts, blocks no client, and answers.
//!
//! `GUARD_TEST_NAMESPACES=1000` for the full number; fewer take less time.

mod user;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect, stream};
use guard_tests::wait;
use user::User;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const METRICS: &str = "127.0.0.1:9455";
/// A server that is not guard's.
const OTHER: &str = "127.0.0.1:9000";
const PATIENCE: Duration = Duration::from_secs(60);
/// What an operation may take longer than without the user.
const LONGER: Duration = Duration::from_secs(1);
/// The user takes its part of the CPUs from all there is, and others may be at work on this machine: what needs no guard is slower too.
const BUSY: u32 = 3;
/// Rounds without the user, and the time with it: three comparisons with the sockets, and a beginning.
const QUIET_ROUNDS: u32 = 30;
const ATTACK: Duration = Duration::from_secs(35);
/// Connections from which a source is blocked.
const THRESHOLD: usize = 30;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nlimits = \"few\"\n\
         [limits.few]\nmax_connections = 20\n[autoblock]\nconnections = {THRESHOLD}\n"
    )
}

/// How many namespaces the user makes.
fn namespaces() -> Result<usize> {
    std::env::var("GUARD_TEST_NAMESPACES").map_or(Ok(150), |number| number.parse().context("no number"))
}

/// Does one thing, with a number of its own.
type Operation = fn(&Guard<'_>, u32) -> Result<()>;

/// What people and programs ask of guard. The first two need no agent: they tell how busy the machine is.
const OPERATIONS: [(&str, Operation); 7] = [
    ("a command", |guard, _| run(guard, &["--version"])),
    ("a connection", |guard, _| page(guard, OTHER, "/")),
    ("metrics", |guard, _| page(guard, METRICS, "/metrics")),
    ("health", |guard, _| page(guard, METRICS, "/healthz")),
    ("block", |guard, number| run(guard, &["block", &address(number), "--for", "1h"])),
    ("block --kill", |guard, number| run(guard, &["block", &address(number), "--for", "1h", "--kill"])),
    ("unblock", |guard, number| run(guard, &["unblock", &address(number)])),
];

fn address(number: u32) -> String {
    format!("10.90.{}.{}", number / 256 % 256, number % 256)
}

fn page(guard: &Guard<'_>, address: &str, path: &str) -> Result<()> {
    guard.host().enter(|| {
        let mut stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(text.starts_with("HTTP/1.1 200"), "{path}: {}", text.lines().next().unwrap_or("cut off"));
        Ok(())
    })
}

/// Answers until the process ends.
fn answer(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        let _ = stream.read(&mut [0; 1000]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    }
}

fn run(guard: &Guard<'_>, arguments: &[&str]) -> Result<()> {
    let (code, _, stderr) = guard.output(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(())
}

/// The longest time of each operation in one round after the other.
fn longest(guard: &Guard<'_>, mut goes_on: impl FnMut(u32) -> bool) -> Result<[Duration; OPERATIONS.len()]> {
    let mut longest = [Duration::ZERO; OPERATIONS.len()];
    let mut round = 0;
    while goes_on(round) {
        for ((name, operation), longest) in OPERATIONS.iter().zip(&mut longest) {
            let begun = Instant::now();
            operation(guard, round).with_context(|| format!("{name}, after {:?}", begun.elapsed()))?;
            *longest = begun.elapsed().max(*longest);
        }
        ensure!(guard.is_attached(), "the program is off the card");
        round += 1;
    }
    Ok(longest)
}

/// Whether an agent answers.
fn answers(guard: &Guard<'_>) -> bool {
    guard.status().is_ok_and(|status| !status["pid"].is_null())
}

/// As packages lay it out: any user may come to the socket and see that there is a ledger.
fn open_the_way(guard: &Guard<'_>) -> Result<()> {
    let directory = guard.socket().parent().context("a directory")?.to_owned();
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}

fn is_blocked(guard: &Guard<'_>) -> Result<bool> {
    let (code, stdout, stderr) = guard.output(&["blocks", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    Ok(stdout.contains("\"10.77."))
}

#[test]
fn a_user_with_a_thousand_namespaces_holds_up_nothing_and_gets_no_client_blocked() -> Result<()> {
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    open_the_way(&guard)?;
    let open = connect(&scene.client, SERVER[0], 1)?;
    let listening = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let other = scene.server.enter(|| Ok(TcpListener::bind(OTHER)?))?;
    std::thread::spawn(move || answer(&other));
    let quiet = longest(&guard, |round| round < QUIET_ROUNDS)?;

    let user = User::start(&guard, CLIENT[0], open[0].local_addr()?.port(), namespaces()?, METRICS)?;
    println!("{}", user.said());
    let begun = Instant::now();
    let disturbed = longest(&guard, |_| begun.elapsed() < ATTACK)?;
    for (((name, _), quiet), disturbed) in OPERATIONS.iter().zip(quiet).zip(disturbed) {
        println!("{name}: at most {quiet:?} without the user, {disturbed:?} with it");
    }
    let busy = BUSY * disturbed[0].max(disturbed[1]);
    for (((name, _), quiet), disturbed) in OPERATIONS.iter().zip(quiet).zip(disturbed) {
        let most = quiet.max(busy) + LONGER;
        ensure!(disturbed < most, "{name}: {disturbed:?} instead of {quiet:?}, and at most {most:?}");
    }

    // An agent that has died starts, and the blocks of one that is dead can be changed.
    guard.kill()?;
    run(&guard, &["block", "10.91.0.1", "--for", "1h"]).context("without an agent")?;
    guard.run_until(answers)?;
    ensure!(guard.is_attached());
    run(&guard, &["unblock", "10.91.0.1"])?;

    ensure!(!is_blocked(&guard)?, "{}", guard.log());
    ensure!(listening.goes_on(5000, PATIENCE), "the client's stream: {}", guard.log());
    let _more = connect(&scene.client, SERVER[0], 10).context("the client's places")?;
    drop(user);
    Ok(())
}

/// Before the first start, so that no agent holds it.
#[test]
fn the_port_of_metrics_in_the_hands_of_a_user_keeps_guard_from_nothing_else() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let squatter = user::listen(&scene.server, METRICS)?;
    guard.run_until(answers)?;
    ensure!(guard.is_attached());
    run(&guard, &["block", "10.90.0.1", "--for", "1h"])?;
    let told = || guard.problems().contains("metrics and health are not served on 127.0.0.1:9455");
    ensure!(wait::within(PATIENCE, told), "{}", guard.problems());
    drop(squatter);
    ensure!(wait::within(PATIENCE, || page(&guard, METRICS, "/metrics").is_ok()), "{}", guard.log());
    Ok(())
}
