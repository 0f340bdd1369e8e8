//! `guard top` in a real terminal, over real traffic.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::abi::End;
use guard_tests::frame::{ACK, Frame, Transport};
use guard_tests::guard::{Guard, binary};
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};
use guard_tests::streams::{StreamingServer, stream};
use guard_tests::terminal::Terminal;
use guard_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets a second of a client that sends some, and of the stranger.
const RATES: [(&str, u32); 2] = [("10.77.1.9", 100), (STRANGER[0], 400)];

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nlimits = \"client\"\n\
         [limits.client]\npackets_per_second = 50\npacket_burst = 3000\nmax_connections = 4\n"
    )
}

/// Sends at the rates above until told to stop.
fn send(scene: &Scene, stop: &AtomicBool) -> Result<()> {
    const TICK: Duration = Duration::from_millis(10);
    let wire = Wire::open(&scene.stranger)?;
    let frame = |source| {
        let frame =
            to_server(Frame::new(source, Transport::Tcp { source_port: 4000, port: 8000, flags: ACK }));
        Frame { source_mac: scene.stranger.mac(), ..frame }.build()
    };
    let frames = RATES.map(|(source, rate)| (frame(source), rate));
    let begin = Instant::now();
    let mut sent = [0; RATES.len()];
    while !stop.load(Ordering::Relaxed) {
        for ((frame, rate), sent) in frames.iter().zip(&mut sent) {
            while f64::from(*sent) < begin.elapsed().as_secs_f64() * f64::from(*rate) {
                wire.send(frame)?;
                *sent += 1;
            }
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn open(guard: &Guard<'_>, locale: &str) -> Result<Terminal> {
    let command = format!("{} top", binary()?.display());
    let socket = guard.socket().display().to_string();
    Terminal::open((80, 24), &command, &[("GUARD_SOCKET", socket), ("LC_ALL", locale.into())])
}

/// The line of a source, in words.
fn line<'a>(screen: &'a str, source: &str) -> Option<Vec<&'a str>> {
    let lines =
        screen.lines().map(|line| line.trim_start_matches('>').split_whitespace().collect::<Vec<_>>());
    lines.into_iter().find(|words| words.first() == Some(&source) && words.len() > 5)
}

fn is_near(figure: Option<&&str>, rate: u32) -> bool {
    let figure = figure.and_then(|figure| figure.parse::<f64>().ok());
    figure.is_some_and(|figure| (figure - f64::from(rate)).abs() < f64::from(rate) * 0.3)
}

fn watched(guard: &Guard<'_>) -> Result<()> {
    let terminal = open(guard, "C")?;
    let [(client, rate), (stranger, flood)] = RATES;
    let screen = terminal.expect("the rates", |screen| {
        let (client, stranger) = (line(screen, client), line(screen, stranger));
        client.is_some_and(|words| is_near(words.get(2), rate))
            && stranger.is_some_and(|words| is_near(words.get(5), flood) && is_near(words.get(2), flood))
    })?;
    ensure!(screen.is_ascii() && screen.contains("eth0 (native)"), "{screen}");
    // One stream, and one of four connections: a quarter of its limits.
    let stream = line(&screen, CLIENT[0]).context("no stream")?;
    ensure!(stream.get(6) == Some(&"1") && stream.get(7) == Some(&"25%"), "{screen}");
    terminal.expect("the client runs out", |screen| {
        line(screen, client).is_some_and(|words| words.get(7).is_some_and(|used| used.len() == 3))
    })?;
    terminal.expect("an event", |screen| screen.contains(&format!("drop {stranger}:4000")))?;
    terminal.expect("the reasons", |screen| screen.contains("not_allowed") && screen.contains("allowed"))?;

    // By what is dropped, then only some of them.
    terminal.press(&["s", "s", "s"])?;
    let first = |screen: &str| {
        screen
            .lines()
            .position(|line| line.contains("drops/sv"))
            .and_then(|heading| screen.lines().nth(heading + 1).map(str::to_owned))
    };
    terminal
        .expect("another order", |screen| first(screen).is_some_and(|line| line.starts_with(stranger)))?;
    terminal.press(&["/", "1", "0", ".", "7", "7", ".", "1", ".", "0", "/", "2", "4", "Enter"])?;
    terminal.expect("a filter", |screen| {
        line(screen, stranger).is_none()
            && line(screen, client).is_some()
            && screen.contains("filter 10.77.1.0/24")
    })?;
    terminal.press(&["Escape"])?;
    terminal.expect("all of them", |screen| line(screen, stranger).is_some())?;

    // A block, first left, then made; and taken back.
    terminal.press(&["/", "1", "0", ".", "7", "7", ".", "1", ".", "9", "Enter", "Down", "b"])?;
    let command = format!("guard block {client}/32 --for 1h --scope services --kill");
    terminal.expect("the question", |screen| screen.contains(&command))?;
    terminal.press(&["n"])?;
    terminal.expect("nothing", |screen| screen.contains("nothing was done"))?;
    let maps = guard.maps()?;
    let net = format!("{client}/32").parse()?;
    ensure!(maps.block(&net)?.is_none());
    terminal.press(&["b", "y"])?;
    terminal.expect("the answer", |screen| screen.contains(&format!("{client}/32 is blocked")))?;
    ensure!(
        maps.block(&net)?
            .is_some_and(|block| block.services_until != End::NONE && block.host_until == End::NONE)
    );
    terminal.expect("the block", |screen| {
        line(screen, client).is_some_and(|words| words.get(7) == Some(&"blocked"))
    })?;
    terminal.press(&["u", "y"])?;
    terminal.expect("the answer", |screen| screen.contains("is not blocked any longer"))?;
    ensure!(maps.block(&net)?.is_none());
    terminal.press(&["p"])?;
    terminal.expect("a pause", |screen| screen.contains("PAUSED"))?;
    terminal.press(&["?"])?;
    terminal.expect("help", |screen| screen.contains("sort by the next column"))?;
    terminal.press(&["x", "p"])?;
    terminal.resize(120, 40)?;
    terminal
        .expect("a larger screen", |screen| screen.lines().count() > 30 && line(screen, client).is_some())?;
    terminal.press(&["q"])?;
    let screen = terminal.expect("the shell again", |screen| screen.contains("ended with 0"))?;
    ensure!(!screen.contains("pkts/s"), "{screen}");
    Ok(())
}

#[test]
fn who_sends_what_is_on_the_screen_and_can_be_blocked_there() -> Result<()> {
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy())?;
    let _stream = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&scene, &stop));
        let result = watched(&guard);
        // Nobody looks any longer.
        let maps = guard.maps()?;
        let is_over = wait::within(PATIENCE, || maps.is_traffic_counted().is_ok_and(|counted| !counted));
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        result?;
        ensure!(is_over, "it is counted, though nobody looks");
        Ok(())
    })
}

#[test]
fn the_terminal_is_given_back_and_scripts_have_a_document() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let terminal = open(&guard, "C.UTF-8")?;
    terminal.expect("the screen", |screen| screen.contains("pkts/s"))?;
    let shell = terminal.shell()?;
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
    kill(Pid::from_raw(children.trim().parse()?), Signal::SIGTERM)?;
    let screen = terminal.expect("the shell", |screen| screen.contains("ended with 0"))?;
    ensure!(!screen.contains("pkts/s"), "{screen}");

    let (code, stdout, stderr) = guard.output(&["top"])?;
    ensure!(code == Some(2) && stdout.is_empty() && stderr.contains("--once"), "{code:?} {stderr}");
    let (code, stdout, stderr) = guard.output(&["top", "--once", "--json"])?;
    ensure!(code == Some(0), "{stderr}");
    let document: Value = serde_json::from_str(&stdout)?;
    ensure!(document["seconds"].as_f64().is_some_and(|seconds| seconds > 0.5), "{document}");
    ensure!(document["sources"].is_array() && document["counters"].is_array(), "{document}");
    let (code, stdout, _) = guard.output(&["top", "--once"])?;
    ensure!(code == Some(0) && stdout.contains("packets/s"), "{stdout}");
    // An agent that goes while somebody looks, and one that is not there.
    let terminal = open(&guard, "C")?;
    terminal.expect("the screen", |screen| screen.contains("pkts/s"))?;
    guard.kill()?;
    terminal.expect("that it is gone", |screen| screen.contains("NO ANSWER: no guard answers at"))?;
    terminal.press(&["C-c"])?;
    terminal.expect("the shell", |screen| screen.contains("ended with 0"))?;
    let (code, _, stderr) = guard.output(&["top", "--once"])?;
    ensure!(code == Some(1) && stderr.contains("is the agent running?"), "{stderr}");
    Ok(())
}
