//! `guard recommend`: limits from what was seen let the same traffic through.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::frame::{ACK, Frame, Transport};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};
use guard_tests::streams::StreamingServer;
use guard_tests::{stale, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
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

/// Sends a packet now and then until the agent has seen one: what comes from now on counts.
fn await_looks(guard: &Guard<'_>, scene: &Scene) -> Result<()> {
    let is_seen =
        || is_counted(guard, scene).unwrap_or(false) && recommend(guard).is_ok_and(|seen| seen.is_some());
    ensure!(wait::within(PATIENCE, is_seen), "it is not watched: {}", guard.log());
    Ok(())
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
    await_looks(&guard, &scene)?;
    send(&scene)?;
    let all = u64::from(MOST + OTHERS[0].1);
    let packets = |proposal: &Value| proposal["packets"].as_u64().unwrap_or(0);
    let seen =
        || recommend(&guard).is_ok_and(|proposal| proposal.is_some_and(|proposal| packets(&proposal) >= all));
    ensure!(wait::within(PATIENCE, seen), "{:?}", recommend(&guard)?);
    let proposal = recommend(&guard)?.context("nothing was seen")?;
    // Some were sent only to see whether anybody looks.
    ensure!((all..all + 2000).contains(&packets(&proposal)), "{proposal}");
    ensure!(proposal["sources"] == 2, "a stranger is none of them: {proposal}");
    // Twice what was sent, whether it lay in one window of ten seconds or in two.
    let burst = proposal["limits"]["packet_burst"].as_u64().unwrap_or(0);
    ensure!((2 * u64::from(MOST)..=3 * u64::from(MOST)).contains(&burst), "{proposal}");
    ensure!(proposal["busiest"]["source"] == format!("{BUSY}/32"), "{proposal}");
    for dropped in [&proposal["would_have_dropped"][1], &proposal["would_have_dropped"][2]] {
        ensure!(dropped["packets_at_most"] == 0 && dropped["reasons"] == json!([]), "{proposal}");
    }
    ensure!(proposal["dropped_meanwhile"]["packets"] == 0, "there were no limits: {proposal}");
    ensure!(proposal["doubts"].as_array().is_some_and(|doubts| doubts.len() == 2), "{proposal}");

    // The next agent knows it, too; others do not.
    guard.end(Signal::SIGTERM)?;
    let file = fs::metadata(guard.state().with_extension("seen.json"))?;
    ensure!(file.permissions().mode() & 0o007 == 0, "{:o}", file.permissions().mode());
    let (code, _, stderr) = guard.output(&["recommend"])?;
    ensure!(code == Some(1) && stderr.contains("is the agent running"), "{code:?}: {stderr}");
    guard.run()?;
    let again = recommend(&guard)?.context("it is forgotten")?;
    for figure in
        ["/packets", "/sources", "/busiest/source", "/busiest/packets_in_ten_seconds", "/limits/packet_burst"]
    {
        ensure!(again.pointer(figure) == proposal.pointer(figure), "{figure}: {again}\n{proposal}");
    }

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
        let asking = scope.spawn(|| guard.output(&["recommend", "--for", "10s", "--json"]));
        await_looks(&guard, &scene)?;
        send(&scene)?;
        let (code, stdout, stderr) = asking.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(code == Some(0), "{stderr}");
        let proposals: Value = serde_json::from_str(&stdout)?;
        // Though no window is over, or hardly one.
        let burst = proposals[0]["limits"]["packet_burst"].as_u64().unwrap_or(0);
        ensure!((2 * u64::from(MOST)..=3 * u64::from(MOST)).contains(&burst), "{proposals}");
        Ok(())
    })
}

/// What each client does once, and the gateway besides.
const CLIENTS: [&str; 5] = ["10.77.1.20", "10.77.1.21", "10.77.1.22", "10.77.1.23", "10.77.1.24"];
const GATEWAY: &str = CLIENT[0];

/// Real clients: each asks for something short, and a gateway uploads and asks for much.
fn work(client: &Host, prompt: &std::path::Path) -> Result<()> {
    let url = |path: &str| format!("http://{}:8000/{path}", SERVER[0]);
    let ask = |arguments: &[&str]| {
        let (ok, answer) =
            client.output("curl", &[&["-sSf", "-m", "60", "-o", "/dev/null"], arguments].concat())?;
        ensure!(ok, "{answer}");
        Ok(())
    };
    for source in CLIENTS {
        ask(&["--interface", source, &url("health")])?;
    }
    let upload = format!("@{}", prompt.display());
    let json = ["-H", "content-type: application/json", "-H", "expect:"];
    for _ in 0..3 {
        ask(&[&["--interface", GATEWAY, "-d", &upload], &json[..], &[&url("v1/completions")]].concat())?;
    }
    let many = ["-Z", "--parallel-immediate", "--parallel-max", "30", "-H", "connection: close"];
    ask(&[&["--interface", GATEWAY], &many[..], &[&url("health?[1-60]")]].concat())
}

#[test]
fn a_gateway_among_real_clients_is_named_and_all_of_them_can_work() -> Result<()> {
    const BYTES: usize = 4 << 20;
    let scene = Scene::new()?;
    let _server = StreamingServer::start(&scene.server, env!("CARGO_BIN_EXE_guard-streaming-server"), 8000)?;
    for address in CLIENTS {
        scene.client.ip(&format!("address add {address}/16 dev eth0"))?;
    }
    let mut prompt = tempfile::Builder::new().prefix(&stale::prefix()).tempfile()?;
    prompt
        .write_all(json!({ "prompt": "word".repeat(BYTES / 4), "max_tokens": 1 }).to_string().as_bytes())?;
    let guard = Guard::start(&scene.server, &policy("monitor", ""))?;
    await_looks(&guard, &scene)?;
    work(&scene.client, prompt.path())?;

    let gateway = |proposal: &Value| proposal["own"][0]["prefix"] == format!("{GATEWAY}/32");
    // The clients, the gateway, and who has made sure that somebody looks.
    let all = CLIENTS.len() + 2;
    let is_seen = |proposal: Value| gateway(&proposal) && proposal["sources"] == all;
    let seen = || recommend(&guard).is_ok_and(|proposal| proposal.is_some_and(is_seen));
    ensure!(wait::within(PATIENCE, seen), "{:?}", recommend(&guard)?);
    // The second in which the last packets came is over.
    thread::sleep(Duration::from_secs(2));
    let proposal = recommend(&guard)?.context("nothing was seen")?;
    ensure!(proposal["own"].as_array().is_some_and(|own| own.len() == 1), "{proposal}");
    ensure!(proposal["busiest"]["source"] == format!("{GATEWAY}/32"), "{proposal}");
    // The others need the least.
    ensure!(
        proposal["limits"]["packets_per_second"] == 2000 && proposal["limits"]["packet_burst"] == 4000,
        "{proposal}"
    );
    // Its lines, with what they say is to be put into the service.
    let (code, lines, stderr) = guard.output(&["recommend"])?;
    ensure!(code == Some(0) && lines.contains("sends far more than the others"), "{stderr}{lines}");
    let below = lines.lines().skip_while(|line| *line != "# Below it:");
    let below: String =
        below.filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    ensure!(below.contains("[[service.sources]]"), "{lines}");
    let file = guard.policy_file().with_extension("new");
    fs::write(&file, policy("enforce", &format!("limits = \"web\"\n{below}{lines}")))?;
    let file = file.display().to_string();
    for command in ["check", "apply"] {
        let (code, stdout, stderr) = guard.output(&[command, &file])?;
        ensure!(code == Some(0) && !stderr.contains("warning"), "{command}: {stdout}{stderr}\n{lines}");
    }
    work(&scene.client, prompt.path())?;
    let lost: Vec<_> = guard
        .counts()?
        .into_iter()
        .filter(|((_, verdict, _), packets)| verdict == "drop" && *packets > 0)
        .collect();
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(())
}
