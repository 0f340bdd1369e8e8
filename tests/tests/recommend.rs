//! `guard recommend`: limits from what was seen let the same traffic through.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::frame::{ACK, Frame, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, STRANGER, Scene, to_server};
use guard_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
/// Packets of the client that sends most, in about this many seconds; of others; of a stranger, whom limits do not concern.
const MOST: u32 = 12_000;
const SECONDS: u32 = 4;
const OTHERS: [(&str, u32); 2] = [("10.77.1.8", 500), (STRANGER[0], 40_000)];
const BUSY: &str = "10.77.1.9";

fn policy(mode: &str, limits: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nmode = \"{mode}\"\n{limits}"
    )
}

/// The traffic that is watched.
fn send(scene: &Scene) -> Result<()> {
    let wire = Wire::open(&scene.stranger)?;
    let frame = |source| {
        let frame =
            to_server(Frame::new(source, Transport::Tcp { source_port: 4000, port: 8000, flags: ACK }));
        Frame { source_mac: scene.stranger.mac(), ..frame }.build()
    };
    let senders = [(BUSY, MOST), OTHERS[0], OTHERS[1]].map(|(source, packets)| (frame(source), packets));
    let begin = Instant::now();
    let mut sent = [0; 3];
    while sent[0] < MOST {
        let part = (begin.elapsed().as_secs_f64() / f64::from(SECONDS)).min(1.0);
        for ((frame, packets), sent) in senders.iter().zip(&mut sent) {
            while f64::from(*sent) < part * f64::from(*packets) {
                wire.send(frame)?;
                *sent += 1;
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn recommend(guard: &Guard<'_>) -> Result<Option<Value>> {
    let (code, stdout, stderr) = guard.output(&["recommend", "--json"])?;
    if code == Some(3) {
        return Ok(None);
    }
    ensure!(code == Some(0), "{stderr}");
    Ok(Some(serde_json::from_str::<Value>(&stdout)?[0].clone()))
}

fn is_counted(guard: &Guard<'_>, scene: &Scene) -> Result<bool> {
    // The next packet puts out what is over.
    let wire = Wire::open(&scene.stranger)?;
    let frame = to_server(Frame::tcp(BUSY, 8000));
    wire.send(&Frame { source_mac: scene.stranger.mac(), ..frame }.build())?;
    guard.maps()?.is_traffic_counted().context("cannot be read")
}

#[test]
fn what_is_proposed_lets_the_same_traffic_through() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("monitor", ""))?;
    ensure!(recommend(&guard)?.is_none(), "nothing was sent yet");
    ensure!(
        wait::within(PATIENCE, || is_counted(&guard, &scene).unwrap_or(false)),
        "in monitor mode it is watched"
    );
    // Sources are known from the first look on that finds them.
    thread::sleep(Duration::from_secs(2));
    for (source, _) in OTHERS {
        let wire = Wire::open(&scene.stranger)?;
        wire.send(
            &Frame { source_mac: scene.stranger.mac(), ..to_server(Frame::tcp(source, 8000)) }.build(),
        )?;
    }
    thread::sleep(Duration::from_secs(2));
    send(&scene)?;
    // All of it may lie in one window of ten seconds, or in two.
    let burst = |proposal: &Value| proposal["limits"]["packet_burst"].as_u64().unwrap_or(0);
    let most = (f64::from(MOST) * 2.0 * 1.35 * 1.1) as u64;
    let seen = || {
        recommend(&guard).is_ok_and(|proposal| proposal.is_some_and(|proposal| burst(&proposal) > most / 3))
    };
    ensure!(wait::within(PATIENCE, seen), "{:?}", recommend(&guard)?);
    thread::sleep(Duration::from_secs(11));
    let proposal = recommend(&guard)?.context("nothing was seen")?;
    ensure!((most / 3..=most).contains(&burst(&proposal)), "at most {most}: {proposal}");
    ensure!(proposal["sources"] == 2, "a stranger is none of them: {proposal}");
    let packets = proposal["packets"].as_u64().unwrap_or(0);
    ensure!((u64::from(MOST)..=u64::from(MOST) + 2000).contains(&packets), "{proposal}");
    ensure!(proposal["would_have_dropped"][0]["packets"] == 0, "{proposal}");
    ensure!(proposal["doubts"].as_array().is_some_and(|doubts| doubts.len() == 2), "{proposal}");

    // The next agent knows it, too.
    guard.end(Signal::SIGTERM)?;
    guard.run()?;
    let again = recommend(&guard)?.context("it is forgotten")?;
    ensure!(again["limits"] == proposal["limits"], "{again}\n{proposal}");

    // The lines as they are printed, in a policy that enforces.
    let (code, lines, stderr) = guard.output(&["recommend"])?;
    ensure!(code == Some(0) && lines.contains("TAKE CARE: it was watched for"), "{stderr}{lines}");
    fs::write(guard.policy_file(), policy("enforce", &format!("limits = \"web\"\n{lines}")))?;
    let (code, _, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{stderr}\n{lines}");
    let before = guard.counts()?;
    send(&scene)?;
    let key = |verdict: &str, reason: &str| ("web".to_owned(), verdict.to_owned(), reason.to_owned());
    let grown = |verdict, reason| -> Result<u64> {
        let key = key(verdict, reason);
        Ok(guard.counts()?.get(&key).copied().unwrap_or(0) - before.get(&key).copied().unwrap_or(0))
    };
    ensure!(wait::within(PATIENCE, || grown("pass", "allowed").is_ok_and(|passed| passed >= u64::from(MOST))));
    ensure!(grown("drop", "packet_rate")? == 0 && grown("drop", "byte_rate")? == 0, "{:?}", guard.counts()?);
    ensure!(grown("drop", "not_allowed")? > 0);

    // Nobody watches any longer, until somebody asks for it.
    ensure!(wait::within(PATIENCE, || !is_counted(&guard, &scene).unwrap_or(true)), "it is still watched");
    let (code, _, stderr) = guard.output(&["recommend", "--reset"])?;
    ensure!(code == Some(0) && recommend(&guard)?.is_none(), "{stderr}");
    let (code, _, stderr) = guard.output(&["recommend", "--service", "nothing"])?;
    ensure!(code == Some(3) && stderr.contains("--for 10m"), "{stderr}");
    let (code, _, stderr) = guard.output(&["recommend", "--headroom", "0.5"])?;
    ensure!(code == Some(1) && stderr.contains("from 1 to 1000"), "{stderr}");
    thread::scope(|scope| {
        let asking = scope.spawn(|| guard.output(&["recommend", "--for", "6s", "--json"]));
        ensure!(wait::within(PATIENCE, || is_counted(&guard, &scene).unwrap_or(false)));
        thread::sleep(Duration::from_secs(2));
        send(&scene)?;
        let (code, stdout, stderr) = asking.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(code == Some(0), "{stderr}");
        let proposals: Value = serde_json::from_str(&stdout)?;
        ensure!(proposals[0]["packets"].as_u64().is_some_and(|packets| packets > 0), "{proposals}");
        Ok(())
    })
}
