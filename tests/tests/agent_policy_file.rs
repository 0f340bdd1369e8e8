//! A policy file that the agent cannot read any more is a problem, with what to do about it.

use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;

fn policy(service: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"{service}\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

fn shows(guard: &Guard<'_>, words: &[&str]) -> Result<()> {
    let shown = || words.iter().all(|word| guard.problems().contains(word));
    ensure!(wait::within(PATIENCE, shown), "{words:?} in {}: {}", guard.problems(), guard.log());
    Ok(())
}

fn is_healthy(guard: &Guard<'_>) -> Result<()> {
    ensure!(wait::within(PATIENCE, || guard.problems() == "[]"), "{}: {}", guard.problems(), guard.log());
    Ok(())
}

#[test]
fn a_policy_that_only_its_owner_may_read_is_a_problem_once_the_capabilities_are_gone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy("old"))?;
    fs::set_permissions(guard.policy_file(), fs::Permissions::from_mode(0o600))?;
    chown(guard.policy_file(), Some(NOBODY), Some(NOBODY))?;
    guard.run()?;
    shows(&guard, &["cannot read the policy", "Permission denied", "has given up the right", "/etc/guard"])?;
    ensure!(guard.is_attached());
    let (code, _, stderr) = guard.output(&["reload"])?;
    ensure!(code == Some(1) && stderr.contains("has given up the right"), "{stderr}");
    // What changed meanwhile is read once it can be.
    fs::write(guard.policy_file(), policy("new"))?;
    chown(guard.policy_file(), Some(0), Some(0))?;
    is_healthy(&guard)?;
    let is_new = || guard.status().is_ok_and(|status| status["services"][0]["name"] == "new");
    ensure!(wait::within(PATIENCE, is_new), "{}", guard.log());
    Ok(())
}

#[test]
fn a_policy_file_that_is_gone_is_a_problem_until_it_is_back() -> Result<()> {
    let scene = Scene::new()?;
    for watch in [true, false] {
        let guard = Guard::start_watching(&scene.server, &policy("web"), watch)?;
        let aside = guard.policy_file().with_extension("aside");
        fs::rename(guard.policy_file(), &aside)?;
        shows(&guard, &["cannot read the policy", "No such file", "put it back"])?;
        ensure!(guard.is_attached());
        fs::rename(&aside, guard.policy_file())?;
        is_healthy(&guard)?;
    }
    Ok(())
}

#[test]
fn a_policy_that_could_not_be_read_is_read_once_it_can_be() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy("old"))?;
    // A directory in the place of the file: it is another one, and cannot be read.
    fs::remove_file(guard.policy_file())?;
    fs::create_dir(guard.policy_file())?;
    let refused = || guard.metrics().is_ok_and(|text| text.contains("guard_policy_last_reload_successful 0"));
    ensure!(wait::within(PATIENCE, refused), "{}", guard.log());
    fs::remove_dir(guard.policy_file())?;
    fs::write(guard.policy_file(), policy("new"))?;
    let is_new = || guard.status().is_ok_and(|status| status["services"][0]["name"] == "new");
    ensure!(wait::within(PATIENCE, is_new), "{}", guard.log());
    Ok(())
}
