//! A policy that awaits its confirmation, over the end of the agent and changes of the policy file.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::pause_free::Traffic;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::agent::{Applied, Status};
use guard_userspace::control::{ApplyRequest, path};

const PATIENCE: Duration = Duration::from_secs(60);
const EVERYBODY: &str = "[\"0.0.0.0/0\", \"::/0\"]";

fn policy(service: &str, allow: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"{service}\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {allow}\n"
    )
}

/// Applies a policy that lasts for so many seconds.
fn apply(guard: &Guard<'_>, text: String, seconds: u64) -> Result<Applied> {
    let request =
        ApplyRequest { policy: text, file: "new.toml".into(), confirm_within: Some(seconds * 1000) };
    Ok(guard.client().post(path::APPLY, &request)?)
}

fn status(guard: &Guard<'_>) -> Result<Status> {
    Ok(guard.client().get(path::STATUS)?)
}

fn is_live(guard: &Guard<'_>, service: &str) -> bool {
    let live = |status: Status| {
        status.policy.unconfirmed_for.is_none() && status.services.iter().any(|live| live.name == service)
    };
    status(guard).is_ok_and(live)
}

#[test]
fn an_agent_starts_while_a_policy_awaits_its_confirmation_and_keeps_to_its_deadline() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("old", ALLOW))?;
    let traffic = Traffic::start(&scene, 8000)?;
    apply(&guard, policy("new", EVERYBODY), 20)?;
    guard.kill()?;
    let (code, stdout, _) = guard.output(&["status"])?;
    ensure!(code == Some(0) && stdout.contains("NOT CONFIRMED"), "without an agent: {stdout}");
    guard.run()?;
    let taken_over = status(&guard)?;
    let left = taken_over.policy.unconfirmed_for.unwrap_or_default();
    ensure!(left > 0.0 && left < 20.0, "{:?}: {}", taken_over.policy, guard.log());
    ensure!(taken_over.services[0].name == "new" && taken_over.problems.is_empty(), "{taken_over:?}");
    ensure!(guard.is_attached(), "{}", guard.log());
    let before = traffic.stranger_arrived();
    ensure!(wait::within(PATIENCE, || traffic.stranger_arrived() > before), "the new policy is in force");
    ensure!(wait::within(PATIENCE, || is_live(&guard, "old")), "it goes back: {}", guard.log());
    let after = traffic.stranger_arrived();
    ensure!(traffic.client_goes_on(1000), "the client gets through under the old policy");
    ensure!(traffic.stranger_arrived() == after, "the stranger does not");
    Ok(())
}

#[test]
fn a_policy_can_be_confirmed_to_the_agent_that_took_it_over() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("old", ALLOW))?;
    apply(&guard, policy("new", ALLOW), 60)?;
    guard.kill()?;
    guard.run()?;
    let (code, _, stderr) = guard.output(&["confirm"])?;
    ensure!(code == Some(0), "{stderr}");
    ensure!(is_live(&guard, "new"), "{:?}", status(&guard)?);
    // The file has not changed: it does not take the place of what was confirmed.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(is_live(&guard, "new"), "{:?}", status(&guard)?);
    Ok(())
}

#[test]
fn a_file_that_changed_while_a_policy_waited_is_read_after_the_way_back() -> Result<()> {
    changed_while_waiting(|_| Ok(()))
}

#[test]
fn a_file_that_changed_while_a_policy_waited_is_read_after_the_confirmation() -> Result<()> {
    changed_while_waiting(|guard| {
        ensure!(wait::within(PATIENCE, || status(guard).is_ok_and(|status| status.policy.reload_put_off)));
        let (code, _, stderr) = guard.output(&["confirm"])?;
        ensure!(code == Some(0), "{stderr}");
        Ok(())
    })
}

fn changed_while_waiting(then: impl FnOnce(&Guard<'_>) -> Result<()>) -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy("old", ALLOW))?;
    apply(&guard, policy("new", ALLOW), 8)?;
    fs::write(guard.policy_file(), policy("changed", ALLOW))?;
    then(&guard)?;
    ensure!(wait::within(PATIENCE, || is_live(&guard, "changed")), "{:?}: {}", status(&guard)?, guard.log());
    Ok(())
}

#[test]
fn a_file_that_changed_while_no_agent_ran_is_read_once_no_policy_waits() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("old", ALLOW))?;
    apply(&guard, policy("new", ALLOW), 15)?;
    guard.kill()?;
    fs::write(guard.policy_file(), policy("changed", ALLOW))?;
    guard.run()?;
    ensure!(status(&guard)?.policy.reload_put_off, "{:?}", status(&guard)?);
    ensure!(wait::within(PATIENCE, || is_live(&guard, "changed")), "{:?}: {}", status(&guard)?, guard.log());
    Ok(())
}

#[test]
fn an_agent_that_does_not_know_the_policy_that_waits_says_so_and_leaves_the_cards_alone() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("old", ALLOW))?;
    apply(&guard, policy("new", ALLOW), 15)?;
    guard.kill()?;
    fs::remove_file(guard.state().with_extension("policy.json"))?;
    guard.run()?;
    ensure!(guard.problems().contains("awaits its confirmation"), "{}", guard.problems());
    ensure!(guard.is_attached());
    ensure!(wait::within(PATIENCE, || is_live(&guard, "old") && guard.problems() == "[]"), "{}", guard.log());
    Ok(())
}
