//! What the kernel tells of drops: each source has its say, a flood does not drown it, and somebody can watch.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};
use guard_tests::wait;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

fn drops(guard: &Guard<'_>, arguments: &[&str]) -> Result<Vec<Value>> {
    let (code, stdout, stderr) =
        guard.output(&[&["events", "--json", "--last", "5000"], arguments].concat())?;
    ensure!(code == Some(0), "{stderr}");
    let entries: Vec<Value> = serde_json::from_str(&stdout)?;
    Ok(entries.into_iter().filter(|entry| entry["kind"] == "drop").collect())
}

fn packets(drops: &[Value]) -> u64 {
    drops.iter().filter_map(|drop| drop["packets"].as_u64()).sum()
}

/// A frame of a stranger to the guarded port.
fn knock(scene: &Scene, source: &str) -> Vec<u8> {
    Frame { source_mac: scene.stranger.mac(), ..to_server(Frame::tcp(source, 8000)) }.build()
}

#[test]
fn who_was_dropped_is_told_in_the_midst_of_a_flood() -> Result<()> {
    const ROUNDS: u64 = 300;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let wire = Wire::open(&scene.stranger)?;
    wire.send(&knock(&scene, STRANGER[0]))?;
    let told = || drops(&guard, &["--source", STRANGER[0]]);
    ensure!(wait::within(PATIENCE, || told().is_ok_and(|drops| drops.len() == 1)), "{:?}", told()?);
    let drop = &told()?[0];
    ensure!(
        drop["reason"] == "not_allowed" && drop["verdict"] == "drop" && drop["service"] == "web",
        "{drop}"
    );
    ensure!(drop["port"] == 8000 && drop["protocol"] == "tcp" && drop["packets"] == 1, "{drop}");
    let (_, text, _) = guard.output(&["events", "--source", STRANGER[0]])?;
    ensure!(text.contains("drop 10.77.66.3:40000 to tcp port 8000 (web): not_allowed, 1 packet, "), "{text}");

    // Five others for each packet of the stranger, from ever new addresses.
    let mine = knock(&scene, STRANGER[0]);
    for round in 0..ROUNDS {
        wire.send(&mine)?;
        for other in 0..5 {
            let source = format!("10.99.{}.{}", round % 250, other + 5 * (round / 250) + 1);
            wire.send(&knock(&scene, &source))?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // One more when the second is over says how many there were.
    thread::sleep(Duration::from_secs(1));
    wire.send(&mine)?;
    let all = || told().is_ok_and(|drops| packets(&drops) == ROUNDS + 2);
    ensure!(wait::within(PATIENCE, all), "{} of {}: {:?}", packets(&told()?), ROUNDS + 2, told()?);
    ensure!(told()?.len() < 10, "one a second: {:?}", told()?);
    let metrics = guard.metrics()?;
    ensure!(metrics.contains("guard_events_lost_total 0\n"), "{metrics}");
    Ok(())
}

#[test]
fn a_watcher_sees_drops_and_actions_as_they_come() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let mut command = guard.command(&["events", "--follow", "--json", "--last", "0"])?;
    let mut watcher = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().context("no watcher")?;
    let output = BufReader::new(watcher.stdout.take().context("no output")?);
    let (sender, lines) = mpsc::channel::<Value>();
    let reader = thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str(&line) else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let expect = |kind: &str, key: &str, value: &str| -> Result<()> {
        loop {
            let line =
                lines.recv_timeout(PATIENCE).with_context(|| format!("no {kind} with {key} {value}"))?;
            if line["kind"] == kind && line[key] == value {
                return Ok(());
            }
        }
    };
    // The watcher asks for the first page before it waits for more.
    thread::sleep(Duration::from_millis(500));
    let result = (|| {
        Wire::open(&scene.stranger)?.send(&knock(&scene, STRANGER[0]))?;
        expect("drop", "source", STRANGER[0])?;
        let (code, _, stderr) = guard.output(&["block", CLIENT[0], "--reason", "a test"])?;
        ensure!(code == Some(0), "{stderr}");
        expect("action", "net", "10.77.1.2/32")
    })();
    watcher.kill().context("the watcher has ended")?;
    watcher.wait().context("the watcher has ended")?;
    let _ = reader.join();
    result
}
