//! Guard under a real Prometheus: what it counts is what the interfaces received, what the dashboard asks is answered, and alerts come when
//! they should and not else.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use guard_common::Reason;
use guard_tests::dashboard;
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::guard::{Guard, binary};
use guard_tests::net::Host;
use guard_tests::pause_free::Traffic;
use guard_tests::prometheus::{Prometheus, hastened, packaged};
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};
use guard_tests::streams::{StreamingServer, stream};
use guard_tests::wait;
use serde_json::Value;

const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");
const PATIENCE: Duration = Duration::from_secs(60);
/// What a rate is taken over: some scrapes.
const WINDOW: &str = "5s";

fn policy() -> String {
    format!(
        r#"
[attach]
interfaces = ["eth0", "nic1"]
[[service]]
name = "web"
ports = [8000]
allow = {ALLOW}
deny = ["10.77.1.99/32"]
[[service.sources]]
prefix = "10.77.1.60/32"
limits = "packets"
[[service.sources]]
prefix = "10.77.1.61/32"
limits = "bytes"
[[service.sources]]
prefix = "10.77.1.62/32"
limits = "connections"
[[service]]
name = "metered"
ports = [8001]
protocols = ["udp"]
allow = {ALLOW}
[[service]]
name = "trial"
ports = [8002]
protocols = ["udp"]
mode = "monitor"
allow = {ALLOW}
[limits.packets]
packets_per_second = 5
packet_burst = 5
[limits.bytes]
bytes_per_second = "1KiB"
byte_burst = "64KiB"
[limits.connections]
connections_per_second = 1
connection_burst = 2
[trusted]
prefixes = ["10.77.2.0/24"]
"#
    )
}

/// How long normal traffic lasts: 20 s, or as many as `GUARD_TEST_SECONDS` says.
fn duration() -> Result<Duration> {
    let seconds = std::env::var("GUARD_TEST_SECONDS").map_or(Ok(20), |text| text.parse());
    Ok(Duration::from_secs(seconds.context("GUARD_TEST_SECONDS is no number")?))
}

/// What the interfaces of the policy have received since they were made, by the kernel's own count. A veth device counts what its driver
/// takes from the wire, which is what native XDP gets to see, whatever becomes of it: the `RX packets` of `ip -s link`.
fn received(host: &Host) -> Result<u64> {
    let of = |interface: &str| -> Result<u64> {
        let (ok, text) = host.output("ip", &["-s", "-j", "link", "show", "dev", interface])?;
        ensure!(ok, "{text}");
        let links: Value = serde_json::from_str(&text)?;
        links[0]["stats64"]["rx"]["packets"].as_u64().with_context(|| text.clone())
    };
    Ok(of("eth0")? + of("nic1")?)
}

/// How many packets came in before guard counted: the difference of both counts at a moment when neither moves.
fn head_start(scene: &Scene, guard: &Guard<'_>) -> Result<u64> {
    let mut found = None;
    let is_quiet = || -> Result<Option<u64>> {
        let before = received(&scene.server)?;
        let counted: u64 = guard.counts()?.values().sum();
        Ok((received(&scene.server)? == before).then_some(before.checked_sub(counted)).flatten())
    };
    let quiet = wait::within(PATIENCE, || {
        found = is_quiet().ok().flatten();
        found.is_some()
    });
    ensure!(quiet, "the network never rests");
    found.context("nothing was found")
}

/// Everything that a host gets on a day, little of each: streams, single requests, strangers, broken packets.
fn normal_traffic(scene: &Scene, stop: &AtomicBool) -> Result<()> {
    let _streams =
        (0..4).map(|number| stream(&scene.client, SERVER[number % 2])).collect::<Result<Vec<_>>>()?;
    let (client, stranger) = (Wire::open(&scene.client)?, Wire::open(&scene.stranger)?);
    let tcp = |source: &str, flags| {
        let transport = Transport::Tcp { source_port: fastrand::u16(20_000..30_000), port: 8000, flags };
        Frame::new(source, transport)
    };
    let send = |wire: &Wire, frame: Frame| wire.send(&to_server(frame).build());
    // More than its limits let pass, once.
    for _ in 0..60 {
        send(&client, tcp("10.77.1.60", ACK))?;
        send(&client, Frame { payload: vec![0; 1400], ..tcp("10.77.1.61", ACK) })?;
        send(&client, tcp("10.77.1.62", SYN))?;
    }
    // Fragments of packets whose first ones never come.
    for number in 0..200 {
        let whole = Frame { payload: vec![0; 64], ..Frame::udp("10.77.3.7", 8001) };
        send(&client, whole.part(24..48, number))?;
    }
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        send(&stranger, tcp(STRANGER[0], SYN))?;
        send(&stranger, tcp(STRANGER[1], SYN))?;
        send(&client, tcp("10.77.1.99", SYN))?;
        send(&client, tcp("10.77.1.50", ACK))?;
        send(&client, tcp("10.77.2.5", ACK))?;
        send(&client, Frame { length_error: 1, ..tcp(CLIENT[0], ACK) })?;
        send(&client, Frame::udp(CLIENT[0], 8001))?;
        send(&stranger, Frame::udp(STRANGER[0], 8002))?;
        let large = Frame { payload: vec![0; 64], ..Frame::udp(CLIENT[0], 8001) };
        for part in large.fragments(24, round) {
            send(&client, part)?;
        }
        if round % 10 == 0 {
            let url = format!("http://{}:8000/v1/models", SERVER[0]);
            let (ok, text) = scene.client.output("curl", &["-sf", "-m", "5", &url])?;
            ensure!(ok, "a lawful request failed: {text}");
            let (ok, text) = scene.stranger.output("ping", &["-c", "1", "-W", "2", SERVER[0]])?;
            ensure!(ok, "other traffic is disturbed: {text}");
        }
        round += 1;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Every query of the dashboard has data.
fn ask_all(prometheus: &Prometheus<'_>) -> Result<()> {
    let text = fs::read_to_string(packaged("grafana/guard.json"))?;
    let queries = dashboard::queries(&serde_json::from_str(&text)?, WINDOW)?;
    ensure!(queries.len() > 30, "{}", queries.len());
    for query in &queries {
        let samples = prometheus.query(&query.expression)?;
        // Only a moment ago there was one: that it was a new policy is seen for the length of a window.
        let is_event = query.of == "New policies";
        ensure!(is_event || !samples.is_empty(), "{}: nothing: {}", query.of, query.expression);
        ensure!(samples.iter().all(|sample| sample.value.is_finite()), "{}: {samples:?}", query.of);
    }
    println!("{} queries of the dashboard are answered", queries.len());
    Ok(())
}

/// The whole of it is what the interfaces received, and each part is what guard says itself.
fn compare(prometheus: &Prometheus<'_>, guard: &Guard<'_>, scene: &Scene, head_start: u64) -> Result<()> {
    const ALL: &str = "sum(guard_packets_total)";
    let mut last = (0, 0.0, 0);
    // Until the last packet has been scraped. A neighbour may be looked for at any moment, so both ends are asked around the query.
    let same = wait::within(PATIENCE, || {
        let ask = || {
            Ok::<_, anyhow::Error>((
                received(&scene.server)?,
                prometheus.value(ALL)?,
                received(&scene.server)?,
            ))
        };
        let Ok((before, Some(counted), after)) = ask() else { return false };
        last = (before, counted, after);
        before == after && counted == (before - head_start) as f64
    });
    let (received, counted, _) = last;
    ensure!(same, "{received} received, {head_start} of them before guard counted; Prometheus has {counted}");
    println!("{counted} packets counted, {} received", received - head_start);
    let by_reason: BTreeMap<String, f64> = prometheus
        .query("sum by (reason) (guard_packets_total)")?
        .iter()
        .map(|sample| (sample.label("reason").to_owned(), sample.value))
        .collect();
    let mut own: BTreeMap<String, f64> = BTreeMap::new();
    for ((_, _, reason), packets) in guard.counts()? {
        *own.entry(reason).or_default() += packets as f64;
    }
    // What comes by itself may have come again.
    for reason in ["not_ip", "unguarded"] {
        ensure!(own.remove(reason) >= by_reason.get(reason).copied(), "{reason}: {by_reason:?} {own:?}");
    }
    for (reason, packets) in &own {
        ensure!(by_reason.get(reason) == Some(packets), "{reason}: {by_reason:?}, guard says {own:?}");
    }
    for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::MaxConnections) {
        ensure!(
            by_reason.get(reason.name()).is_some_and(|packets| *packets > 0.0),
            "no {reason:?}: {by_reason:?}"
        );
    }
    println!("{by_reason:?}");
    let went_back = prometheus.query("resets(guard_packets_total[1h]) > 0")?;
    ensure!(went_back.is_empty(), "{went_back:?}");
    Ok(())
}

#[test]
fn a_real_prometheus_sees_all_of_it() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.wire("nic1", &scene.stranger, "nic1")?;
    scene.server.ip("link set nic1 up")?;
    scene.stranger.ip("link set nic1 up")?;
    let _server = StreamingServer::start(&scene.server, STREAMING, 8000)?;
    let guard = Guard::start(&scene.server, &policy())?;
    let (code, _, stderr) = guard.output(&["block", "10.77.1.50", "--scope", "services"])?;
    ensure!(code == Some(0), "{stderr}");
    let rules = hastened(&fs::read_to_string(packaged("prometheus/guard.rules.yml"))?);
    let prometheus = Prometheus::start(&scene.server, &rules)?;
    let head_start = head_start(&scene, &guard)?;

    let stop = AtomicBool::new(false);
    let (begun, time) = (Instant::now(), duration()?);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| normal_traffic(&scene, &stop));
        wait::until(begun + time, || traffic.is_finished());
        let answered = ask_all(&prometheus);
        stop.store(true, Ordering::Relaxed);
        traffic.join().map_err(|_| anyhow!("the traffic panicked"))??;
        answered
    })?;
    compare(&prometheus, &guard, &scene, head_start)?;
    let fired = prometheus.query("count_over_time(ALERTS{alertstate=\"firing\"}[1h])")?;
    ensure!(fired.is_empty(), "in normal traffic: {fired:?}");

    // All that can happen to a host at once.
    fs::write(guard.policy_file(), "nonsense")?;
    scene.server.ip("link delete nic1")?;
    let flood = Traffic::start(&scene, 8001)?;
    let expected = ["GuardReloadFailed", "GuardInterfaceDetached", "GuardProblem", "GuardDropSurge"];
    ensure!(prometheus.fires(&expected, 2 * PATIENCE), "{:?}", prometheus.firing()?);
    let _ = flood.finish()?;
    ensure!(prometheus.firing()?.iter().all(is_readable), "{:?}", prometheus.firing()?);
    let mut guard = guard;
    guard.kill()?;
    ensure!(prometheus.fires(&["GuardDown"], PATIENCE), "{:?}", prometheus.firing()?);
    println!(
        "alerts: {:?}",
        prometheus.firing()?.iter().map(|alert| &alert["annotations"]["summary"]).collect::<Vec<_>>()
    );
    Ok(())
}

/// Whether its texts could be filled in.
fn is_readable(alert: &Value) -> bool {
    ["summary", "description"].iter().all(|name| {
        let text = alert["annotations"][name].as_str().unwrap_or_default();
        text.len() > 20 && !text.contains("<error") && !text.contains("<no value>")
    })
}

#[test]
fn the_files_for_prometheus_are_right() -> Result<()> {
    let scene = Scene::new()?;
    let path = |name: &str| packaged(&format!("prometheus/{name}")).display().to_string();
    let (rules, tests) = (path("guard.rules.yml"), path("guard.rules.test.yml"));
    let (scrape, alertmanager) = (path("scrape.yml"), path("alertmanager.yml"));
    let route = ["config", "routes", "test", "--config.file", &alertmanager];
    let cases: [(&str, &[&str], &str); 7] = [
        ("promtool", &["check", "rules", &rules], "14 rules found"),
        ("promtool", &["test", "rules", &tests], "SUCCESS"),
        ("promtool", &["check", "config", "--syntax-only", &scrape], "SUCCESS"),
        ("amtool", &["check-config", &alertmanager], "SUCCESS"),
        ("amtool", &[&route[..], &["alertname=GuardDown", "severity=critical"]].concat(), "page"),
        ("amtool", &[&route[..], &["alertname=GuardDropSurge", "severity=warning"]].concat(), "file"),
        ("amtool", &[&route[..], &["alertname=GuardConnectionDrift", "severity=info"]].concat(), "file"),
    ];
    for (program, arguments, expected) in cases {
        let (ok, text) = scene.client.output(program, arguments)?;
        ensure!(ok && text.contains(expected), "{program} {arguments:?}: {text}");
    }
    let rules = fs::read_to_string(rules)?;
    let tests = fs::read_to_string(tests)?;
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(tests.contains(&format!("alertname=\"{name}\"")), "{name} has no test in which it fires");
    }
    // Commands that are to be run at 3 a.m. exist.
    let verbs: Vec<&str> = rules.split('`').filter_map(|text| text.strip_prefix("guard ")).collect();
    ensure!(verbs.len() > 10, "{verbs:?}");
    for verb in verbs.iter().filter_map(|text| text.split_whitespace().next()) {
        let (ok, text) = scene.client.output(&binary()?.display().to_string(), &["help", verb])?;
        ensure!(ok, "guard {verb}: {text}");
    }
    Ok(())
}

#[test]
fn the_dashboard_explains_itself() -> Result<()> {
    let text = fs::read_to_string(packaged("grafana/guard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard::panels(&dashboard)?;
    let mut places: Vec<[u64; 4]> = Vec::new();
    let mut numbers = Vec::new();
    for panel in panels {
        let title = &panel["title"];
        numbers.push(panel["id"].as_u64().context("no id")?);
        let at = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(u64::MAX));
        let [x, y, width, height] = at;
        ensure!(x + width <= 24, "{title} is too wide");
        let overlaps =
            |[ox, oy, ow, oh]: &[u64; 4]| x < ox + ow && *ox < x + width && y < oy + oh && *oy < y + height;
        ensure!(!places.iter().any(overlaps), "{title} covers another");
        places.push(at);
        if panel["type"] == "row" {
            continue;
        }
        ensure!(
            panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{title} is not described"
        );
        let source = |of: &Value| of["datasource"]["uid"] == "${datasource}";
        let targets = panel["targets"].as_array().context("no targets")?;
        ensure!(source(panel) && !targets.is_empty() && targets.iter().all(source), "{title}: whose data?");
    }
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(numbers.len() == panels.len(), "two panels have one number");
    Ok(())
}
