//! Interfaces that come, go, change their names and lose their program: guard follows as it happens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::agent::{InterfaceStatus, Status};
use guard_userspace::control::path;

/// Less than the time between two regular looks: what is noticed within it was heard of.
const AT_ONCE: Duration = Duration::from_secs(4);

fn policy(interfaces: &str) -> String {
    format!(
        "[attach]\ninterfaces = [{interfaces}]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

fn is_attached(host: &Host, interface: &str) -> bool {
    host.output("ip", &["-details", "link", "show", "dev", interface])
        .is_ok_and(|(ok, text)| ok && text.contains("prog/xdp"))
}

fn interface(guard: &Guard<'_>, name: &str) -> Option<InterfaceStatus> {
    let status: Status = guard.client().get(path::STATUS).ok()?;
    status.interfaces.into_iter().find(|interface| interface.name == name)
}

fn add(host: &Host, name: &str) -> Result<()> {
    host.ip(&format!("link add {name} type veth peer name {name}-peer"))?;
    host.ip(&format!("link set {name} up"))
}

#[test]
fn interfaces_that_a_pattern_matches_are_guarded_as_they_come_and_go() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start(host, &policy("\"eth0\", \"nic*\""))?;
    // None is there yet: that keeps guard from nothing else.
    ensure!(is_attached(host, "eth0") && interface(&guard, "nic*").is_some_and(|nic| nic.mode == "none"));
    for round in 0..3 {
        add(host, "nic1")?;
        ensure!(wait::within(AT_ONCE, || is_attached(host, "nic1")), "round {round}: {}", guard.log());
        host.ip("link set nic1 name nic2")?;
        let renamed = || interface(&guard, "nic2").is_some_and(|nic| nic.mode == "native");
        ensure!(wait::within(AT_ONCE, renamed), "round {round}: {}", guard.log());
        ensure!(interface(&guard, "nic1").is_none(), "the old name is gone");
        // A new name is no new policy.
        host.ip("link set nic2 name other")?;
        let told =
            || interface(&guard, "other").and_then(|nic| nic.why).is_some_and(|why| why.contains("nic*"));
        ensure!(wait::within(AT_ONCE, told), "round {round}: {}", guard.log());
        ensure!(is_attached(host, "other"), "round {round}: {}", guard.log());
        host.ip("link set other name nic2")?;
        ensure!(wait::within(AT_ONCE, renamed), "round {round}: {}", guard.log());
        host.ip("link delete nic2")?;
        ensure!(
            wait::within(AT_ONCE, || interface(&guard, "nic2").is_none()),
            "round {round}: {}",
            guard.log()
        );
    }
    ensure!(is_attached(host, "eth0"), "the other one was left alone");
    Ok(())
}

#[test]
fn an_interface_of_the_policy_that_goes_away_is_a_problem_until_it_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    add(host, "nic1")?;
    let guard = Guard::start(host, &policy("\"eth0\", \"nic1\""))?;
    let ready = || host.output("curl", &["-sf", "http://127.0.0.1:9455/readyz"]).is_ok_and(|(ok, _)| ok);
    ensure!(ready(), "{}", guard.log());
    host.ip("link delete nic1")?;
    ensure!(wait::within(AT_ONCE, || !ready()), "it is missed: {}", guard.log());
    let missing = interface(&guard, "nic1").context("it is shown")?;
    ensure!(missing.mode == "none" && missing.why.is_some_and(|why| why.contains("nic1")));
    ensure!(
        guard.metrics()?.contains("guard_attached{interface=\"nic1\",mode=\"none\"} 0"),
        "{}",
        guard.metrics()?
    );
    add(host, "nic1")?;
    ensure!(wait::within(AT_ONCE, ready), "it is back: {}", guard.log());
    ensure!(is_attached(host, "nic1"));
    Ok(())
}

#[test]
fn a_program_that_somebody_takes_off_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start(host, &policy("\"eth0\""))?;
    for round in 0..3 {
        guard.cut_links()?;
        ensure!(wait::within(AT_ONCE, || is_attached(host, "eth0")), "round {round}: {}", guard.log());
    }
    let (_, events, _) = guard.output(&["events"])?;
    ensure!(
        events.matches("attach, done, by guard: taken off eth0 by somebody else").count() == 3,
        "{events}"
    );
    Ok(())
}

#[test]
fn a_foreign_program_is_named_and_the_other_interfaces_go_on() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    add(host, "nic1")?;
    let foreign = Guard::start(host, &policy("\"nic1\""))?;
    let mut guard = Guard::install(
        host,
        &policy("\"eth0\", \"nic1\"").replace("[attach]", "[metrics]\nlisten = \"127.0.0.1:9456\"\n[attach]"),
    )?;
    guard.run_at("127.0.0.1:9456")?;
    ensure!(is_attached(host, "eth0"), "{}", guard.log());
    let refused = interface(&guard, "nic1").and_then(|nic| nic.why).context("it is shown")?;
    let pin = foreign.pins().display().to_string();
    ensure!(refused.contains("guard") && refused.contains("(id ") && refused.contains(&pin), "{refused}");
    drop(foreign);
    ensure!(wait::within(AT_ONCE, || is_attached(host, "nic1")), "once it is free: {}", guard.log());
    Ok(())
}

#[test]
fn bridges_and_vlans_are_attached_where_it_works_and_explained() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    host.ip("link add br9 type bridge")?;
    host.ip("link set br9 up")?;
    let guard = Guard::start(host, &policy("\"eth0\", \"br9\""))?;
    let bridge = interface(&guard, "br9").context("the bridge is shown")?;
    ensure!(bridge.mode == "generic", "{bridge:?}");
    ensure!(bridge.why.is_some_and(|why| why.contains("is a bridge")), "{}", guard.log());
    Ok(())
}
