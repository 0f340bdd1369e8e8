//! The metrics, as those who read them get them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};
use guard_tests::wait;
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);
const URL: &str = "http://127.0.0.1:9455/metrics";

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    )
}

/// Head and body of an answer.
fn get(guard_host: &guard_tests::net::Host, arguments: &[&str]) -> Result<(String, String)> {
    let (ok, text) = guard_host.output("curl", &[&["-si", "-m", "5"], arguments].concat())?;
    ensure!(ok, "{arguments:?}: {text}");
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no head: {text}"))?;
    Ok((head.to_lowercase(), body.into()))
}

/// Samples by name and labels; comments left out.
fn samples(text: &str) -> Vec<&str> {
    let of_this_moment = |line: &&str| !line.starts_with('#') && !line.starts_with("process_");
    text.lines().filter(of_this_moment).collect()
}

#[test]
fn promtool_has_nothing_to_say_of_them() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let mut promtool = scene.server.command("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = promtool.stdin.take().context("no stdin")?;
    stdin.write_all(guard.metrics()?.as_bytes())?;
    drop(stdin);
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
fn both_formats_say_the_same() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let (text_head, text) = get(&scene.server, &[URL])?;
    ensure!(text_head.contains("content-type: text/plain; version=0.0.4"), "{text_head}");
    let accept = "Accept: application/openmetrics-text; version=1.0.0";
    let (open_head, open) = get(&scene.server, &["-H", accept, URL])?;
    let expected = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    ensure!(open_head.contains(expected), "{open_head}");
    ensure!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1, "{open}");
    for line in
        ["# TYPE guard_packets counter", "# TYPE guard_build info", "# TYPE process_cpu_seconds counter"]
    {
        ensure!(open.lines().any(|found| found == line), "no {line}: {open}");
    }
    // A neighbour may have been looked for meanwhile.
    let unlike = |line: &&&str| !line.contains("reason=\"not_ip\"") && !line.contains("reason=\"unguarded\"");
    let (text, open) = (samples(&text), samples(&open));
    ensure!(text.len() == open.len() && text.len() > 60, "{} and {}", text.len(), open.len());
    ensure!(text.iter().filter(unlike).eq(open.iter().filter(unlike)), "{text:?} {open:?}");
    drop(guard);
    Ok(())
}

#[test]
fn what_is_not_a_scrape_is_answered_in_kind() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let (head, body) = get(&scene.server, &["-I", URL])?;
    ensure!(head.contains("200 ok") && body.is_empty(), "HEAD: {head} {body}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    ensure!(length.is_some_and(|length| length.parse::<u32>().is_ok_and(|length| length > 1000)), "{head}");
    let long = format!("X-Long: {}", "x".repeat(60_000));
    let longer = format!("http://127.0.0.1:9455/{}", "x".repeat(60_000));
    let cases: [(&str, &[&str], &str); 5] = [
        ("another path", &["http://127.0.0.1:9455/nowhere"], "404"),
        ("another method", &["-X", "DELETE", URL], "405"),
        ("a body", &["--data-binary", "x=1", URL], "405"),
        ("a long header", &["-H", &long, URL], "431"),
        ("a long path", &[&longer], "4"),
    ];
    for (name, arguments, status) in cases {
        let (head, body) = get(&scene.server, arguments).context(name)?;
        ensure!(head.starts_with(&format!("http/1.1 {status}")), "{name}: {head}");
        ensure!(name != "another path" || body.contains("/metrics"), "{name}: {body}");
    }
    // No HTTP at all, and a request that never ends.
    let answer = scene.server.enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9455")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"what is it?\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    ensure!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    ensure!(guard.metrics().is_ok(), "the agent goes on");
    Ok(())
}

#[test]
fn counters_outlive_the_agent() -> Result<()> {
    const FRAMES: u64 = 500;
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let send = || -> Result<()> {
        for (host, source) in [(&scene.client, CLIENT[0]), (&scene.stranger, STRANGER[0])] {
            let wire = Wire::open(host)?;
            for _ in 0..FRAMES {
                wire.send(&to_server(Frame::udp(source, 8000)).build())?;
            }
        }
        Ok(())
    };
    let counts = |metrics: &str, of: &str| -> Vec<String> {
        let wanted = |line: &&&str| line.starts_with(of) && line.contains("service=\"web\"");
        samples(metrics).iter().filter(wanted).map(ToString::to_string).collect()
    };
    let has = |guard: &Guard<'_>, frames: u64| {
        let lines = [
            format!("guard_packets_total{{reason=\"allowed\",service=\"web\",verdict=\"pass\"}} {frames}\n"),
            format!(
                "guard_packets_total{{reason=\"not_allowed\",service=\"web\",verdict=\"drop\"}} {frames}\n"
            ),
        ];
        guard.metrics().is_ok_and(|text| lines.iter().all(|line| text.contains(line)))
    };
    send()?;
    ensure!(wait::within(PATIENCE, || has(&guard, FRAMES)), "{}", guard.metrics()?);
    let before = guard.metrics()?;
    for (round, end) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        if end == Signal::SIGKILL {
            guard.kill()?
        } else {
            guard.end(end)?
        }
        // What comes while there is no agent is counted as well.
        send()?;
        guard.run()?;
        let frames = FRAMES * (round as u64 + 2);
        ensure!(wait::within(PATIENCE, || has(&guard, frames)), "{end}: {}", guard.metrics()?);
    }
    let after = guard.metrics()?;
    for of in ["guard_packets_total", "guard_bytes_total"] {
        let (before, after) = (counts(&before, of), counts(&after, of));
        ensure!(before.len() == after.len() && !before.is_empty(), "{before:?} {after:?}");
        for (before, after) in before.iter().zip(&after) {
            let value = |line: &str| -> Result<(String, u64)> {
                let (name, value) = line.rsplit_once(' ').context("no value")?;
                Ok((name.into(), value.parse()?))
            };
            let ((name, before), (same, after)) = (value(before)?, value(after)?);
            ensure!(name == same && after == 3 * before, "{name}: {before}, then {after}");
        }
    }
    Ok(())
}

#[test]
fn sources_are_named_only_where_that_is_asked_for() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &format!("{}[metrics]\ntop_sources = 1\n", policy()))?;
    // From the first scrape on it is counted.
    ensure!(!guard.metrics()?.contains("guard_source_"), "{}", guard.metrics()?);
    let wire = Wire::open(&scene.stranger)?;
    let send = |source: &str, times: u32| -> Result<()> {
        let frame = to_server(Frame::segment(source, 8000));
        let frame = Frame { source_mac: scene.stranger.mac(), ..frame }.build();
        (0..times).try_for_each(|_| wire.send(&frame))
    };
    for (source, times) in [("10.77.1.8", 3), ("10.77.1.9", 7), (STRANGER[0], 5), ("10.77.66.4", 4)] {
        send(source, times)?;
    }
    let of = |metric: &str, source: &str| {
        format!("guard_source_{metric}{{service=\"web\",source=\"{source}/32\"}} ")
    };
    let is_there =
        || guard.metrics().is_ok_and(|text| text.contains(&format!("{}7", of("packets_total", "10.77.1.9"))));
    ensure!(wait::within(PATIENCE, is_there), "{}", guard.metrics()?);
    let text = guard.metrics()?;
    // The one with most packets, and the one with most drops.
    let named: Vec<&str> =
        text.lines().filter(|line| line.starts_with("guard_source_packets_total")).collect();
    ensure!(named.len() == 2, "{named:?}");
    ensure!(text.contains(&format!("{}5", of("dropped_packets_total", STRANGER[0]))), "{text}");
    ensure!(text.contains(&format!("{}0", of("dropped_packets_total", "10.77.1.9"))), "{text}");
    Ok(())
}
