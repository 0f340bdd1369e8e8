//! How much room the tables have: from the policy to the metrics, over a restart.

use std::fs;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::large;
use guard_tests::scene::{ALLOW, Scene};
use guard_userspace::datapath::Maps;
use guard_userspace::datapath::pins::Pins;
use nix::sys::signal::Signal;
use serde_json::Value;

fn policy(capacity: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{capacity}"
    )
}

/// A metric of one table.
fn metric(guard: &Guard<'_>, name: &str, map: &str) -> Result<u64> {
    let text = guard.metrics()?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{map=\"{map}\"}} ")));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} of {map}: {text}"))
}

#[test]
fn the_policy_sets_the_room_and_a_restart_changes_it() -> Result<()> {
    let scene = Scene::new()?;
    let small = "[capacity]\nblocks = 1024\nsources = 2048\nconnections = 4096\n";
    let mut guard = Guard::start_watching(&scene.server, &policy(small), false)?;
    for (map, room) in [("blocks", 1024), ("block_prefixes", 1024), ("sources", 2048), ("connections", 4096)]
    {
        assert_eq!(metric(&guard, "guard_map_capacity", map)?, room, "{map}");
        assert_eq!(metric(&guard, "guard_map_entries", map)?, 0, "{map}");
    }
    let rules =
        metric(&guard, "guard_map_entries", "rules_v4")? + metric(&guard, "guard_map_entries", "rules_v6")?;
    assert_eq!(rules, ALLOW.matches('/').count() as u64, "a rule for each prefix");
    ensure!(metric(&guard, "guard_map_capacity", "rules_v4").is_err(), "rules are made to measure");

    fs::write(guard.policy_file(), policy("[capacity]\nblocks = 5000\n"))?;
    let (code, stdout, stderr) = guard.output(&["reload"])?;
    assert_eq!(code, Some(0), "{stderr}");
    let said = format!("{stdout}{stderr}");
    assert!(said.contains("[capacity] takes effect when the agent is started again"), "{said}");
    assert_eq!(metric(&guard, "guard_map_capacity", "blocks")?, 1024, "until then the tables stay");

    guard.end(Signal::SIGTERM)?;
    guard.run()?;
    assert_eq!(metric(&guard, "guard_map_capacity", "blocks")?, 5000);
    assert_eq!(metric(&guard, "guard_map_capacity", "sources")?, 262_144, "the default");

    // Without an agent the pinned maps say as much.
    guard.end(Signal::SIGTERM)?;
    let (_, stdout, stderr) = guard.output(&["status", "--json"])?;
    let status: Value = serde_json::from_str(&stdout).with_context(|| format!("{stdout}{stderr}"))?;
    let maps = status["maps"].as_array().context("no maps")?;
    let blocks = maps.iter().find(|map| map["map"] == "blocks").context("no blocks")?;
    assert_eq!((&blocks["entries"], &blocks["capacity"]), (&Value::from(0), &Value::from(5000)));
    let (_, text, _) = guard.output(&["status"])?;
    let line = text.lines().find(|line| line.trim_start().starts_with("rules_v4")).context("no tables")?;
    assert!(line.contains("as needed"), "{text}");
    Ok(())
}

#[test]
fn room_for_fewer_blocks_than_there_are_is_refused_and_loses_none() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start_watching(&scene.server, &policy("[capacity]\nblocks = 4096\n"), false)?;
    guard.end(Signal::SIGTERM)?;
    let pins = Pins::new(guard.pins());
    Maps::open(&pins)?.write_blocks(&large::blocks(2000))?;
    fs::write(guard.policy_file(), policy("[capacity]\nblocks = 1024\n"))?;
    guard.run()?;
    // The agent runs, with the last policy that the kernel took, and says so.
    let problems = guard.problems();
    let wanted = "table BLOCKS is full: it has room for 1024 entries; raise blocks in [capacity]";
    assert!(
        problems.contains(wanted) && problems.contains("the last one that was live guards"),
        "{problems}"
    );
    assert_eq!(Maps::open(&pins)?.blocks()?.len(), 2000, "the tables before are still there");
    guard.end(Signal::SIGTERM)?;
    fs::write(guard.policy_file(), policy("[capacity]\nblocks = 2000\n"))?;
    guard.run()?;
    assert_eq!(metric(&guard, "guard_map_entries", "blocks")?, 2000);
    Ok(())
}
