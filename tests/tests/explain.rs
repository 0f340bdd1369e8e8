//! `guard explain` says of an address what its next packet gets, and where that comes from.

use std::fs;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::Wire;
use guard_tests::scene::{CLIENT, STRANGER, Scene, to_server};
use guard_tests::wait;
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The lines are counted on below.
const POLICY: &str = r#"[attach]
interfaces = ["eth0"]
[[service]]
name = "web"
ports = [8000]
allow = ["10.77.1.0/24",
    "10.77.9.0/24", "fd00:77::/64"]
deny = ["10.77.9.9"]
limits = "client"
[[service.sources]]
prefix = "10.77.9.7"
limits = "slow"
[limits.client]
connections_per_second = 1
connection_burst = 20
max_connections = 3
[limits.slow]
packets_per_second = 1
packet_burst = 2
[trusted]
prefixes = ["10.77.1.99"]
[[service]]
name = "looked-at"
ports = [9000]
mode = "monitor"
allow = ["10.77.1.0/24"]
"#;

fn explain(guard: &Guard<'_>, arguments: &[&str]) -> Result<(Value, String)> {
    let (code, text, stderr) = guard.output(&[&["explain"], arguments].concat())?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    let (_, json, _) = guard.output(&[&["explain", "--json"], arguments].concat())?;
    let explained: Value = serde_json::from_str(&json)?;
    Ok((explained[0].clone(), text))
}

/// Sends packets from an address and returns the reasons that they are counted under.
fn send(
    scene: &Scene,
    guard: &Guard<'_>,
    source: &str,
    port: u16,
    flags: u8,
    times: usize,
) -> Result<Vec<String>> {
    let wire = Wire::open(&scene.stranger)?;
    let frame = to_server(Frame::new(source, Transport::Tcp { source_port: 4000, port, flags }));
    let frame = Frame { source_mac: scene.stranger.mac(), ..frame }.build();
    let mut reasons = Vec::new();
    for _ in 0..times {
        let before = guard.counts()?;
        wire.send(&frame)?;
        let mut grown = None;
        let seen = wait::within(PATIENCE, || {
            let Ok(now) = guard.counts() else { return false };
            let service = if port == 8000 { "web" } else { "looked-at" };
            let mut of_service = now.into_iter().filter(|((of, ..), _)| of == service);
            grown = of_service.find(|(key, count)| before.get(key).copied().unwrap_or(0) < *count);
            grown.is_some()
        });
        ensure!(seen, "{source}: not counted");
        reasons.extend(grown.map(|((_, _, reason), _)| reason));
    }
    Ok(reasons)
}

#[test]
fn each_reason_with_its_line_and_its_figures() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, POLICY)?;
    let file = guard.policy_file().display().to_string();
    let at = |line: u32| format!("({file}:{line})");

    // What a packet gets, what is said, and the packet that gets it.
    for (source, port, reason, says, next) in [
        ("10.77.1.50", 8000, "allowed", format!("allowed: 10.77.1.0/24 of `allow` {}", at(6)), None),
        ("10.77.9.1", 8000, "allowed", format!("allowed: 10.77.9.0/24 of `allow` {}", at(7)), None),
        ("10.77.1.99", 8000, "trusted", format!("10.77.1.99/32 of `trusted` {}", at(21)), None),
        (
            "10.77.9.9",
            8000,
            "denied",
            format!(
                "> rule         the longest prefix around the source is 10.77.9.9/32 of `deny` {}",
                at(8)
            ),
            Some("take away 10.77.9.9/32"),
        ),
        (
            STRANGER[0],
            8000,
            "not_allowed",
            "> rule         no prefix of `allow` contains the source".into(),
            Some("add it to `allow` of \"web\""),
        ),
        (STRANGER[0], 9000, "not_allowed", "WOULD_DROP, not_allowed".into(), Some("add it")),
    ] {
        let (explained, text) = explain(&guard, &[source, "--port", &port.to_string()])?;
        ensure!(
            explained["reason"] == reason && text.contains(&says),
            "{source}: wanted {says}\n{text}\n{explained}"
        );
        match next {
            Some(next) => ensure!(text.contains("  next ") && text.contains(next), "{text}"),
            None => ensure!(!text.contains("  next ") && !text.contains("> "), "{text}"),
        }
        ensure!(send(&scene, &guard, source, port, ACK, 1)? == [reason], "{source}");
    }

    // The limiter. Five of twenty SYNs, and one comes back in a second.
    ensure!(send(&scene, &guard, "10.77.1.51", 8000, SYN, 5)? == ["allowed"; 5]);
    let (explained, text) = explain(&guard, &["10.77.1.51"])?;
    let limit = &explained["limits"][0];
    let left = limit["left"].as_u64().context("no figure")?;
    ensure!(
        limit["limit"] == "new_connections" && limit["most"] == 20 && limit["within"] == true,
        "{explained}"
    );
    ensure!((15..20).contains(&left), "{explained}");
    let full = limit["full_again_seconds"].as_f64().context("no figure")?;
    ensure!((20.0 - left as f64 - 1.0..=20.0 - left as f64).contains(&full), "{explained}");
    ensure!(
        text.contains(&format!("{left} of 20 new connections left, full again in "))
            || text.contains(" of 20 new connections left"),
        "{text}"
    );
    ensure!(text.contains("0 of 3 open"), "{text}");
    // Other limits for one address, used up.
    ensure!(send(&scene, &guard, "10.77.9.7", 8000, ACK, 2)? == ["allowed"; 2]);
    let (explained, text) = explain(&guard, &["10.77.9.7"])?;
    ensure!(explained["reason"] == "packet_rate", "{text}");
    ensure!(text.contains(&format!("\"slow\", by 10.77.9.7/32 of `sources` {}", at(11))), "{text}");
    ensure!(
        text.contains("OVER THE LIMIT: 0 of 2 packets left") && text.contains("raise [limits.slow]"),
        "{text}"
    );
    // A group.
    let (_, text) = explain(&guard, &["fd00:77::1:2"])?;
    ensure!(text.contains("\"client\", for all of the group of fd00:77::"), "{text}");

    // The line follows the file.
    fs::write(guard.policy_file(), format!("# One more line.\n{POLICY}"))?;
    let (code, _, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{stderr}");
    let (explained, text) = explain(&guard, &["10.77.9.9"])?;
    ensure!(
        text.contains(&at(9)) && explained["rule"]["line"] == 9 && explained["rule"]["file"] == file,
        "{text}"
    );
    guard.kill()?;
    let (explained, text) = explain(&guard, &["10.77.9.9"])?;
    ensure!(explained["reason"] == "denied" && explained["rule"].is_null(), "{explained}");
    ensure!(text.contains("a prefix of `deny`"), "{text}");
    Ok(())
}

#[test]
fn a_block_says_whose_it_is_and_why() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, POLICY)?;
    for arguments in [
        &["block", "10.77.1.0/28", "--for", "1h", "--reason", "a bad rack", "--force"][..],
        &["block", "10.77.1.64/27", "--scope", "services", "--reason", "too loud"],
    ] {
        let (code, _, stderr) = guard.output(arguments)?;
        ensure!(code == Some(0), "{stderr}");
    }
    ensure!(send(&scene, &guard, CLIENT[0], 8000, ACK, 2)? == ["blocked"; 2]);
    for running in [true, false] {
        if !running {
            guard.kill()?;
        }
        let (explained, text) = explain(&guard, &[CLIENT[0], "--port", "8000"])?;
        ensure!(
            explained["reason"] == "blocked" && explained["block"]["net"] == "10.77.1.0/28",
            "{explained}"
        );
        ensure!(explained["block"]["dropped"] == 2, "{explained}");
        for says in [
            "10.77.1.0/28 is blocked for another ",
            ": a bad rack; 2 packets dropped",
            "guard unblock 10.77.1.0/28",
        ] {
            ensure!(text.contains(says), "{running}: {says}: {text}");
        }
        // To other ports only what is of the host counts.
        let (explained, _) = explain(&guard, &["10.77.1.70", "--port", "22"])?;
        ensure!(explained["reason"] == "unguarded" && explained["block"].is_null(), "{explained}");
        let (explained, text) = explain(&guard, &["10.77.1.70", "--port", "8000"])?;
        ensure!(
            explained["reason"] == "blocked" && text.contains("10.77.1.64/27 is blocked for good"),
            "{text}"
        );
    }
    Ok(())
}
