//! Whatever happens to the agent, nothing of a stranger arrives and nothing of a client is lost: shown by traffic that never pauses.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use guard_common::Address;
use guard_common::abi::{self, Block, End};
use guard_tests::bpf::{HASH, Map, NO_PREALLOC, Shape, TRIE};
use guard_tests::guard::Guard;
use guard_tests::pause_free::{Totals, Traffic};
use guard_tests::scene::{ALLOW, Scene};
use guard_userspace::agent::Applied;
use guard_userspace::control::{ClientError, path};
use nix::sys::signal::Signal;

const PORT: u16 = 8000;

fn policy(service: &str, more: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"{service}\"\nports = [{PORT}]\nprotocols = [\"udp\", \"tcp\"]\nallow = {ALLOW}\n{more}"
    )
}

/// Starts guard, then traffic, does `what` to guard, and adds up.
fn under_traffic(what: impl FnOnce(&Scene, &mut Guard<'_>, &Traffic) -> Result<()>) -> Result<Totals> {
    let scene = Scene::new()?;
    let mut guard = Guard::start_watching(&scene.server, &policy("web", ""), false)?;
    let traffic = Traffic::start(&scene, PORT)?;
    ensure!(traffic.client_goes_on(1000), "the client does not get through");
    what(&scene, &mut guard, &traffic).with_context(|| guard.log())?;
    ensure!(traffic.client_goes_on(1000), "the client does not get through any more: {}", guard.log());
    let totals = traffic.finish()?;
    println!("{totals:?}");
    assert_eq!(totals.stranger_arrived, 0, "of the stranger: {}", guard.log());
    assert!(totals.stranger_sent > 1000, "the stranger did send");
    Ok(totals)
}

fn nothing_is_lost(totals: &Totals) {
    assert_eq!(totals.client_arrived, totals.client_sent, "of the client");
}

#[test]
fn killed_and_started_again() -> Result<()> {
    nothing_is_lost(&under_traffic(|_, guard, traffic| {
        for _ in 0..5 {
            guard.kill()?;
            ensure!(traffic.client_goes_on(1000), "without an agent");
            guard.run()?;
            ensure!(guard.log().contains("took over eth0"), "the next agent takes over");
        }
        Ok(())
    })?);
    Ok(())
}

#[test]
fn ended_and_started_again() -> Result<()> {
    nothing_is_lost(&under_traffic(|_, guard, traffic| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            guard.end(signal)?;
            ensure!(traffic.client_goes_on(1000), "without an agent");
            guard.run()?;
        }
        Ok(())
    })?);
    Ok(())
}

/// A build with another layout of the maps: to the next start the pinned set is one of the version before.
#[test]
fn upgraded_to_a_build_with_other_maps() -> Result<()> {
    nothing_is_lost(&under_traffic(|_, guard, traffic| {
        for _ in 0..3 {
            let before: u64 = guard.counts()?.values().sum();
            guard.kill()?;
            let set = the_set(&guard.pins())?;
            let older = set.replace(&format!("abi-{}-", abi::VERSION), &format!("abi-{}-", abi::VERSION - 1));
            fs::rename(guard.pins().join(&set), guard.pins().join(&older))
                .context("cannot rename the set")?;
            ensure!(traffic.client_goes_on(1000), "without an agent");
            guard.run()?;
            ensure!(guard.log().contains(&format!("taken over from {older}")), "the new set takes over");
            ensure!(
                the_set(&guard.pins())?.starts_with(&format!("abi-{}-", abi::VERSION)),
                "one set remains"
            );
            ensure!(guard.counts()?.values().sum::<u64>() >= before, "counters only grow");
        }
        Ok(())
    })?);
    Ok(())
}

/// Blocks had other values then, and nobody but the kernel knows of this one.
#[test]
fn blocks_of_a_build_before_are_taken_over_without_a_ledger() -> Result<()> {
    const BLOCKED: &str = "10.77.1.9";
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("web", ""))?;
    guard.kill()?;
    let set = the_set(&guard.pins())?;
    let older = guard.pins().join(set.replace(&format!("abi-{}-", abi::VERSION), "abi-4-"));
    fs::rename(guard.pins().join(&set), &older).context("cannot rename the set")?;
    let (host, services, dropped) = (0, u64::MAX, 7);
    let value = [host, services, dropped].map(u64::to_ne_bytes).concat();
    let blocks = Map::new(Shape { kind: HASH, key: 16, value: 24, entries: 16, flags: 0 })?;
    let key = Address::from(BLOCKED.parse::<IpAddr>()?).to_bytes();
    blocks.write_all(&[key], &[<[u8; 24]>::try_from(value.as_slice())?])?;
    fs::remove_file(older.join("BLOCKS"))?;
    blocks.pin(&older.join("BLOCKS"))?;
    // So have the prefixes.
    let prefixes = Map::new(Shape { kind: TRIE, key: 20, value: 24, entries: 16, flags: NO_PREALLOC })?;
    fs::remove_file(older.join("BLOCK_PREFIXES"))?;
    prefixes.pin(&older.join("BLOCK_PREFIXES"))?;
    fs::remove_dir_all(guard.state_directory())?;
    guard.run()?;
    let block = guard.maps()?.block(&format!("{BLOCKED}/32").parse()?)?;
    let expected = Block { host_until: End::NONE, services_until: End::FOREVER, dropped };
    ensure!(block == Some(expected), "{block:?}: {}", guard.log());
    let (_, blocks, _) = guard.output(&["blocks"])?;
    ensure!(blocks.contains(BLOCKED) && blocks.contains("found in the kernel"), "{blocks}");
    Ok(())
}

/// The name of the only set of maps.
fn the_set(pins: &Path) -> Result<String> {
    let names = fs::read_dir(pins)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut sets: Vec<_> = names.filter(|name| name.starts_with("abi-")).collect();
    ensure!(sets.len() == 1, "not one set of maps: {sets:?}");
    sets.pop().context("no set of maps")
}

#[test]
fn a_thousand_reloads_in_a_row() -> Result<()> {
    nothing_is_lost(&under_traffic(|_, guard, _| {
        let client = guard.client();
        for number in 1..=1000 {
            let applied: Applied = client.post(path::RELOAD, &())?;
            ensure!(applied.generation == number + 1, "{applied:?} at reload {number}");
        }
        Ok(())
    })?);
    Ok(())
}

#[test]
fn reloads_that_change_everything_and_one_that_is_refused() -> Result<()> {
    nothing_is_lost(&under_traffic(|_, guard, traffic| {
        let limits =
            "limits = \"wide\"\n[limits.wide]\npackets_per_second = 1000000\n[source]\nipv4_prefix = 24\n";
        let other = policy("other", limits).replace("[8000]", "[\"7990-8010\", 22]");
        for text in [other.as_str(), &policy("web", ""), &other] {
            fs::write(guard.policy_file(), text)?;
            guard.client().post::<Applied>(path::RELOAD, &())?;
            ensure!(traffic.client_goes_on(500), "under {text}");
        }
        for bad in ["[[service]]\nname = \"web\"\n", "not toml at all", ""] {
            fs::write(guard.policy_file(), bad)?;
            let refused = guard.client().post::<Applied>(path::RELOAD, &());
            ensure!(matches!(refused, Err(ClientError::BadPolicy(_))), "{bad:?}: {refused:?}");
            ensure!(traffic.client_goes_on(500), "after the refused {bad:?}");
        }
        let (code, stdout, _) = guard.output(&["status"])?;
        ensure!(code == Some(0) && stdout.contains("THE LAST RELOAD WAS REFUSED"), "{stdout}");
        ensure!(guard.metrics()?.contains("guard_policy_last_reload_successful 0"), "the metric says it");
        Ok(())
    })?);
    Ok(())
}

/// A wire that is down loses packets by itself: only the stranger's count here.
#[test]
fn the_interface_down_and_up() -> Result<()> {
    under_traffic(|scene, _, traffic| {
        for _ in 0..3 {
            scene.server.ip("link set eth0 down")?;
            scene.server.ip("link set eth0 up")?;
            ensure!(traffic.client_goes_on(500), "after the interface came up");
        }
        Ok(())
    })?;
    Ok(())
}
