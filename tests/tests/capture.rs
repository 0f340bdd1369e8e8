//! Dropped packets, for Wireshark and for the log, while somebody wants them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::abi::Watch;
use guard_tests::frame::{ACK, Frame, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};
use guard_tests::streams::{StreamingServer, stream};
use guard_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(60);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\ndeny = [\"10.77.5.0/24\"]\n\
         [[service]]\nname = \"watched\"\nports = [9000]\nmode = \"monitor\"\nallow = [\"10.0.0.1\"]\n"
    )
}

/// A segment of the stranger's with so many bytes in it, whatever its source says.
fn segment(scene: &Scene, source: &str, port: u16, payload: usize) -> Vec<u8> {
    let transport = Transport::Tcp { source_port: 40_000, port, flags: ACK };
    let frame = to_server(Frame::new(source, transport));
    Frame { source_mac: scene.stranger.mac(), payload: vec![b'x'; payload], ..frame }.build()
}

/// Begins a capture and waits until the kernel knows.
fn begin(guard: &Guard<'_>, arguments: &[&str]) -> Result<Child> {
    let mut command = guard.command(&[&["capture"], arguments].concat())?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let maps = guard.maps()?;
    ensure!(
        wait::within(PATIENCE, || maps.watch().is_ok_and(|watch| watch.word & 0x7fff != 0)),
        "no capture"
    );
    Ok(child)
}

fn end(child: Child, signal: Signal) -> Result<(Option<i32>, String, String)> {
    kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// What Wireshark's own reader finds in a capture: interface, source, bytes of the frame, bytes there, comment.
fn read(file: &Path) -> Result<Vec<Vec<String>>> {
    let fields = ["frame.interface_name", "ip.src", "frame.len", "frame.cap_len", "frame.comment"];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields"]).args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output().context("the tests of captures need tshark")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[test]
fn what_is_dropped_is_what_wireshark_reads() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("all.pcapng");
    let name = file.to_str().context("a name")?;
    let wire = Wire::open(&scene.stranger)?;
    let frames = [
        segment(&scene, STRANGER[0], 8000, 1000),
        segment(&scene, "10.77.5.5", 8000, 3),
        segment(&scene, STRANGER[0], 9000, 74),
        // To a port that nobody guards: it passes.
        segment(&scene, STRANGER[0], 22, 74),
    ];
    let send = || frames.iter().try_for_each(|frame| wire.send(frame));
    let capture = begin(&guard, &["-w", name, "--json"])?;
    send()?;
    let complete = || {
        fs::metadata(&file).is_ok_and(|file| file.len() > 600)
            && read(&file).is_ok_and(|read| read.len() == 3)
    };
    ensure!(wait::within(PATIENCE, complete), "{:?}", read(&file)?);
    let (code, stdout, stderr) = end(capture, Signal::SIGINT)?;
    ensure!(code == Some(0), "{stderr}");
    let said: Value = serde_json::from_str(&stdout)?;
    ensure!(
        said["packets"] == 3 && said["lost"] == 0 && said["left_out"] == 0 && said["file"] == name,
        "{said}"
    );
    let length = |number: usize| frames[number].len();
    let row = |source: &str, number: usize, comment: &str| -> Vec<String> {
        let (whole, shown) = (length(number), length(number).min(128));
        ["eth0", source, &whole.to_string(), &shown.to_string(), comment].map(str::to_owned).into()
    };
    let expected = [
        row(STRANGER[0], 0, "reason=not_allowed verdict=drop service=web"),
        row("10.77.5.5", 1, "reason=denied verdict=drop service=web"),
        row(STRANGER[0], 2, "reason=not_allowed verdict=would_drop service=watched"),
    ];
    ensure!(read(&file)? == expected, "{:?}\n{expected:?}", read(&file)?);

    // What is there is not written over; and one can ask for less.
    let (code, _, stderr) = guard.output(&["capture", "-w", name])?;
    ensure!(code == Some(1) && stderr.contains("--force"), "{stderr}");
    for (arguments, kept) in [
        (&["--reason", "denied"][..], &expected[1..2]),
        (&["--service", "watched"], &expected[2..]),
        (&["--source", "10.77.5.0/24"], &expected[1..2]),
        (&["--count", "1"], &expected[..1]),
    ] {
        let capture = begin(&guard, &[&["-w", name, "--force"], arguments].concat())?;
        send()?;
        ensure!(
            wait::within(PATIENCE, || read(&file).is_ok_and(|read| read == kept)),
            "{arguments:?}: {:?}",
            read(&file)?
        );
        // One that has its count has ended.
        if arguments[0] == "--count" {
            let output = capture.wait_with_output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        } else {
            end(capture, Signal::SIGTERM)?;
        }
        ensure!(wait::within(PATIENCE, || guard
            .maps()
            .is_ok_and(|maps| maps.watch().is_ok_and(|watch| watch == Watch::OFF))));
        ensure!(read(&file)? == kept, "{arguments:?}");
    }
    for (arguments, status, says) in [
        (&["--reason", "allowed"][..], 2, "not_allowed"),
        (&["--service", "nothing"], 3, "web"),
        (&["--source", "10.0.0.1/8"], 2, "10.0.0.0/8"),
    ] {
        let other = directory.path().join("other.pcapng");
        let (code, _, stderr) =
            guard.output(&[&["capture", "-w", other.to_str().context("a name")?], arguments].concat())?;
        ensure!(code == Some(status) && stderr.contains(says), "{arguments:?}: {code:?} {stderr}");
        ensure!(!other.exists(), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_flood_is_sampled_and_nobody_waits_for_it() -> Result<()> {
    const TIME: Duration = Duration::from_secs(2);
    let scene = Scene::new()?;
    let server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy())?;
    let listening = stream(&scene.client, SERVER[0])?;
    ensure!(server.has(1, PATIENCE));
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("flood.pcapng");
    let capture = begin(&guard, &["-w", file.to_str().context("a name")?, "--json", "--count", "1000000"])?;
    let frame = segment(&scene, STRANGER[0], 8000, 10);
    let stop = AtomicBool::new(false);
    let (sent, heard) = thread::scope(|scope| -> Result<_> {
        let flooding = scope.spawn(|| -> Result<u64> {
            let wire = Wire::open(&scene.stranger)?;
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                wire.send(&frame)?;
                sent += 1;
            }
            Ok(sent)
        });
        let before = listening.heard()?;
        thread::sleep(TIME);
        let heard = listening.heard()? - before;
        stop.store(true, Ordering::Relaxed);
        Ok((flooding.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??, heard))
    })?;
    // The agent says once a second what it left out.
    thread::sleep(Duration::from_millis(1500));
    let (code, stdout, stderr) = end(capture, Signal::SIGINT)?;
    ensure!(code == Some(0), "{stderr}");
    let said: Value = serde_json::from_str(&stdout)?;
    let number = |key: &str| said[key].as_u64().unwrap_or(0);
    println!("sent {sent}, captured {said}, the client heard {heard}");
    // 128 for each CPU in 67 ms.
    let most = 128 * (TIME.as_millis() as u64 / 67 + 3) * thread::available_parallelism()?.get() as u64;
    ensure!((1000..=most).contains(&number("packets")), "{said}, at most {most}");
    ensure!(number("packets") + number("left_out") + number("lost") == sent, "{sent}: {said}");
    ensure!(heard > 0, "the client waits");
    ensure!(read(&file)?.len() as u64 == number("packets"));
    Ok(())
}

#[test]
fn nothing_stays_switched_on() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let directory = tempfile::tempdir()?;
    let name = |name: &str| directory.path().join(name).display().to_string();
    let is_off = |guard: &Guard<'_>| {
        guard.maps().is_ok_and(|maps| maps.watch().is_ok_and(|watch| watch == Watch::OFF))
    };
    let capture = begin(&guard, &["-w", &name("killed.pcapng")])?;
    end(capture, Signal::SIGKILL)?;
    ensure!(wait::within(PATIENCE, || is_off(&guard)), "the capture was killed");

    // The agent dies: the kernel waits no longer than its lease, and the next packet switches it off.
    let capture = begin(&guard, &["-w", &name("orphan.pcapng")])?;
    guard.kill()?;
    let output = capture.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && stderr.contains("the agent has ended"), "{stderr}");
    let wire = Wire::open(&scene.stranger)?;
    let frame = segment(&scene, STRANGER[0], 8000, 10);
    let maps = guard.maps()?;
    ensure!(wait::within(PATIENCE, || wire.send(&frame).is_ok()
        && maps.watch().is_ok_and(|watch| watch.word == 0)));
    let (code, _, stderr) = guard.output(&["capture", "-w", &name("none.pcapng")])?;
    ensure!(code == Some(1) && !Path::new(&name("none.pcapng")).exists(), "{stderr}");
    Ok(())
}

#[test]
fn drops_are_logged_for_a_while() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let wire = Wire::open(&scene.stranger)?;
    let frame = segment(&scene, STRANGER[0], 8000, 10);
    let line =
        format!("drop {}:40000 to tcp port 8000 (web): not_allowed, {} bytes", STRANGER[0], frame.len());
    wire.send(&frame)?;
    let (code, stdout, stderr) = guard.output(&["debug", "drops", "on", "--for", "2s"])?;
    ensure!(code == Some(0) && stdout.contains("until"), "{stdout}{stderr}");
    ensure!(!guard.log().contains(&line), "it was not asked for: {}", guard.log());
    wire.send(&frame)?;
    ensure!(wait::within(PATIENCE, || guard.log().contains(&line)), "{}", guard.log());
    let maps = guard.maps()?;
    ensure!(
        wait::within(PATIENCE, || maps.watch().is_ok_and(|watch| watch == Watch::OFF)),
        "its time is over"
    );
    let before = guard.log().matches(&line).count();
    wire.send(&frame)?;
    let (code, stdout, stderr) = guard.output(&["debug", "drops", "off", "--json"])?;
    ensure!(code == Some(0) && stdout.contains("null"), "{stdout}{stderr}");
    ensure!(guard.log().matches(&line).count() == before, "{}", guard.log());
    ensure!(!guard.log().contains(CLIENT[0]));
    Ok(())
}
