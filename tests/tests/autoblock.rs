//! Automatic blocks in the kernel and in the ledger, beside those that people make.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::autoblock::{Automatic, Decision, Exemption, Kind, Offence, Rules};
use guard_userspace::blocks::{Protected, Register};
use guard_userspace::config::Autoblock;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// Reports an offence as the agent would, with what the last agent left.
fn judge(guard: &Guard<'_>, policy: &Autoblock) -> Result<Decision> {
    let mut maps = guard.maps()?;
    let mut register = Register::open(guard.state(), &mut maps)?;
    let rules = Rules { autoblock: policy, trusted: &[], protected: &Protected::default() };
    let offence = Offence {
        source: "10.9.9.9/32".parse()?,
        service: "web".into(),
        kind: Kind::Limited,
        count: 7000,
        threshold: 6000,
        window: Some(MINUTE),
        holders: Vec::new(),
    };
    let (decision, blocked) = register.judge(&mut maps, &rules, &offence)?;
    let not_recorded = blocked.and_then(|blocked| blocked.not_recorded);
    ensure!(not_recorded.is_none(), "{not_recorded:?}");
    Ok(decision)
}

fn block(decision: Decision) -> Result<Automatic> {
    match decision {
        Decision::Block(block) => Ok(block),
        Decision::Exempt(why) => anyhow::bail!("{why}"),
    }
}

fn output(guard: &Guard<'_>, arguments: &[&str]) -> Result<String> {
    let (code, stdout, stderr) = guard.output(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(stdout)
}

fn listed(guard: &Guard<'_>) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&output(guard, &["blocks", "--json"])?)?)
}

#[test]
fn automatic_blocks_beside_those_of_people() -> Result<()> {
    let scene = Scene::new()?;
    let text = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    );
    let mut guard = Guard::start(&scene.server, &text)?;
    guard.end(Signal::SIGTERM)?;
    let policy = Autoblock::default();
    let first = block(judge(&guard, &policy)?)?;
    ensure!((first.strike, first.lasts) == (1, 10 * MINUTE), "{first:?}");
    ensure!(judge(&guard, &policy)? == Decision::Exempt(Exemption::Blocked), "a late report");
    let list = listed(&guard)?;
    let [block_of_guard] = list.as_slice() else { anyhow::bail!("{list:?}") };
    ensure!(block_of_guard["origin"] == "auto" && block_of_guard["by"] == "guard", "{block_of_guard}");
    ensure!(
        block_of_guard["scope"] == "services" && block_of_guard["evidence"]["count"] == 7000,
        "{block_of_guard}"
    );
    let text = output(&guard, &["blocks"])?;
    ensure!(
        text.contains("7000 packets over its limits in 1m (limit 6000); service web, 1st block"),
        "{text}"
    );
    let explain = |port| -> Result<bool> {
        let explained =
            output(&guard, &["explain", "10.9.9.9", "--protocol", "udp", "--port", port, "--json"])?;
        Ok(serde_json::from_str::<Value>(&explained)?[0]["verdict"] == "drop")
    };
    ensure!(!explain("22")?, "of the scope services");
    // Let in by hand: at once, and not forgotten.
    output(&guard, &["unblock", "10.9.9.9"])?;
    ensure!(listed(&guard)?.is_empty());
    let second = block(judge(&guard, &policy)?)?;
    ensure!((second.strike, second.lasts) == (2, 20 * MINUTE), "{second:?}");
    // The longer of two times holds, whoever made it.
    let left = |list: &[Value]| -> Result<f64> {
        let times = list[0]["until"].as_f64().zip(list[0]["since"].as_f64());
        times.map(|(until, since)| (until - since) / 60_000.0).context("no times")
    };
    output(&guard, &["block", "10.9.9.9", "--scope", "services", "--for", "5m"])?;
    let list = listed(&guard)?;
    ensure!(list.len() == 1 && list[0]["origin"] == "auto" && left(&list)?.round() == 20.0, "{list:?}");
    output(&guard, &["block", "10.9.9.9", "--scope", "services", "--for", "2h", "--reason", "enough"])?;
    let list = listed(&guard)?;
    ensure!(list.len() == 1 && list[0]["origin"] == "manual" && list[0]["evidence"].is_null(), "{list:?}");
    ensure!(left(&list)?.round() == 120.0 && list[0]["reason"] == "enough", "{list:?}");
    output(&guard, &["unblock", "10.9.9.9"])?;
    // One that a person has made and that lasts longer is enough.
    output(&guard, &["block", "10.9.9.0/24", "--for", "2h"])?;
    ensure!(judge(&guard, &policy)? == Decision::Exempt(Exemption::Blocked), "a prefix around it is blocked");
    output(&guard, &["unblock", "10.9.9.0/24"])?;
    let third = block(judge(&guard, &policy)?)?;
    ensure!(third.strike == 3, "{third:?}");
    // Its end.
    output(&guard, &["unblock", "10.9.9.9"])?;
    let short = Autoblock {
        duration: Duration::from_secs(1),
        max_duration: Duration::from_secs(1),
        ..policy.clone()
    };
    block(judge(&guard, &short)?)?;
    guard.run()?;
    ensure!(wait::within(PATIENCE, || guard
        .maps()
        .is_ok_and(|maps| maps.blocks().is_ok_and(|blocks| blocks.is_empty()))));
    guard.end(Signal::SIGTERM)?;
    let fifth = block(judge(&guard, &policy)?)?;
    ensure!(fifth.strike == 5, "the agent does not forget: {fifth:?}");
    output(&guard, &["unblock", "10.9.9.9"])?;
    let forgetful = Autoblock { forget_after: Duration::from_millis(1), ..policy };
    let mut again = None;
    ensure!(wait::within(PATIENCE, || {
        again = judge(&guard, &forgetful).ok();
        again.is_some()
    }));
    let again = block(again.context("no decision")?)?;
    ensure!(again.strike == 1, "quiet for long enough: {again:?}");
    let events = output(&guard, &["events", "--source", "10.9.9.9", "--json"])?;
    let events: Vec<Value> = serde_json::from_str(&events)?;
    let automatic = events.iter().filter(|event| event["by"] == "guard" && event["action"] == "block");
    ensure!(automatic.clone().count() == 6, "{events:?}");
    ensure!(automatic.clone().all(|event| event["details"]["evidence"]["threshold"] == 6000), "{events:?}");
    Ok(())
}
