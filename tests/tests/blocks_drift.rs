//! What another program changes in the kernel's tables of blocks is noticed, mended, counted and told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::abi::{Block, End};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::blocks::{Blocked, Scope};
use guard_userspace::control::{BlockRequest, path};
use ipnet::IpNet;

/// Few blocks are compared every five seconds, many within a minute.
const PATIENCE: Duration = Duration::from_secs(150);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

fn block(guard: &Guard<'_>, nets: Vec<IpNet>, scope: Scope) -> Result<()> {
    let request = BlockRequest {
        nets,
        scope,
        lasts: Some(3_600_000),
        reason: None,
        caller: None,
        force: false,
        skip_protected: false,
        kill: false,
    };
    let _: Blocked = guard.client().post(path::BLOCK, &request)?;
    Ok(())
}

fn net(text: &str) -> Result<IpNet> {
    text.parse().context("a network")
}

fn ends(guard: &Guard<'_>, net: &IpNet) -> Option<(End, End)> {
    let entry = guard.maps().ok()?.block(net).ok()??;
    Some((entry.host_until, entry.services_until))
}

fn drift(guard: &Guard<'_>) -> u64 {
    let metrics = guard.metrics().unwrap_or_default();
    let line = metrics.lines().find_map(|line| line.strip_prefix("guard_block_drift_total "));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Does something to the tables, and waits until they are as they were.
fn comes_back(guard: &Guard<'_>, nets: &[IpNet], what: impl FnOnce() -> Result<()>) -> Result<()> {
    let before: Vec<_> = nets.iter().map(|net| ends(guard, net)).collect();
    let counted = drift(guard);
    what()?;
    let is_back = || nets.iter().map(|net| ends(guard, net)).collect::<Vec<_>>() == before;
    ensure!(!is_back(), "the tables were changed");
    ensure!(wait::within(PATIENCE, is_back), "{nets:?}: {}", guard.log());
    ensure!(wait::within(PATIENCE, || drift(guard) > counted), "the drift is counted: {}", guard.log());
    Ok(())
}

#[test]
fn a_block_that_another_program_removes_or_shortens_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let nets = [net("10.9.9.9/32")?, net("fd00:9::9/128")?, net("10.0.0.0/12")?, net("10.3.0.0/16")?];
    block(&guard, nets.to_vec(), Scope::Services)?;
    comes_back(&guard, &nets, || Ok(guard.maps()?.remove_blocks(&nets)?))?;
    for net in nets {
        let soon = Block { host_until: End::NONE, services_until: End::not_before(1), dropped: 0 };
        comes_back(&guard, &[net], || Ok(guard.maps()?.write_blocks(&[(net, soon)])?))?;
    }
    ensure!(
        guard.problems().contains("another program changes the tables of blocks"),
        "{}",
        guard.problems()
    );
    let (_, events, _) = guard.output(&["events"])?;
    ensure!(events.contains("mend") && events.contains("10.9.9.9"), "{events}");
    ensure!(wait::within(PATIENCE, || guard.problems() == "[]"), "{}", guard.problems());
    Ok(())
}

#[test]
fn what_another_program_adds_or_lengthens_is_listed_and_can_be_ended() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let known = net("10.9.9.9/32")?;
    block(&guard, vec![known], Scope::Services)?;
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    let added = [known, net("10.9.9.10/32")?, net("10.4.0.0/16")?];
    guard.maps()?.write_blocks(&added.map(|net| (net, forever)))?;
    let listed = || {
        let (_, stdout, _) = guard.output(&["blocks", "--json"]).unwrap_or_default();
        let list: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap_or_default();
        let is_forever = |net: &IpNet| {
            list.iter().any(|block| block["net"] == net.to_string() && block["until"].is_null())
        };
        added.iter().all(is_forever)
    };
    ensure!(wait::within(PATIENCE, listed), "{}", guard.log());
    for net in added {
        let (code, _, stderr) = guard.output(&["unblock", &net.to_string()])?;
        ensure!(code == Some(0) && ends(&guard, &net).is_none(), "{net}: {stderr}");
    }
    Ok(())
}

#[test]
fn the_kernel_is_told_again_that_blocks_concern_the_whole_host() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    block(&guard, vec![net("10.77.66.3/32")?], Scope::Host)?;
    let is_dropped = || {
        let (_, stdout, _) = guard.output(&["explain", "10.77.66.3", "--port", "22"]).unwrap_or_default();
        stdout.contains("DROP")
    };
    ensure!(is_dropped(), "at first");
    guard.maps()?.set_host_blocks(0)?;
    ensure!(!is_dropped(), "another program has switched it off");
    ensure!(wait::within(PATIENCE, is_dropped), "{}", guard.log());
    ensure!(wait::within(PATIENCE, || drift(&guard) > 0), "{}", guard.log());
    Ok(())
}

#[test]
fn one_of_many_blocks_that_is_removed_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let many: Vec<IpNet> = (0..6000_u32)
        .map(|number| net(&format!("100.64.{}.{}/32", number >> 8, number & 255)))
        .collect::<Result<_>>()?;
    block(&guard, many, Scope::Services)?;
    let one = net("100.64.23.42/32")?;
    comes_back(&guard, &[one], || Ok(guard.maps()?.remove_blocks(&[one])?))?;
    ensure!(drift(&guard) == 1, "only that one differed: {}", drift(&guard));
    Ok(())
}
