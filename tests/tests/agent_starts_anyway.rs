//! Guard starts, and guards, although something beside the packets fails; and it uses the last policy where the file cannot be used.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::pause_free::Traffic;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy(allow: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {allow}\n"
    )
}

/// Waits until a problem is shown that has all of these words.
fn shows(guard: &Guard<'_>, words: &[&str]) -> Result<()> {
    let shown = || {
        let problems = guard.problems();
        words.iter().all(|word| problems.contains(word))
    };
    ensure!(wait::within(PATIENCE, shown), "{words:?} in {}: {}", guard.problems(), guard.log());
    Ok(())
}

fn is_healthy(guard: &Guard<'_>) -> Result<()> {
    // Without an agent there are no problems either.
    let healthy = || {
        guard.status().is_ok_and(|status| {
            status["pid"].is_number() && status["problems"].as_array().is_some_and(Vec::is_empty)
        })
    };
    ensure!(wait::within(PATIENCE, healthy), "{}: {}", guard.problems(), guard.log());
    Ok(())
}

/// A listener of another process on the port of the metrics.
fn take_the_metrics_port(host: &Host) -> Result<TcpListener> {
    host.enter(|| TcpListener::bind("127.0.0.1:9455").context("the port is free"))
}

#[test]
fn guard_guards_although_the_metrics_port_is_taken() -> Result<()> {
    let scene = Scene::new()?;
    let taken = take_the_metrics_port(&scene.server)?;
    let mut guard = Guard::install(&scene.server, &policy(ALLOW))?;
    guard.run_until(|guard| guard.status().is_ok_and(|status| status["pid"].is_number()))?;
    let traffic = Traffic::start(&scene, 8000)?;
    ensure!(traffic.client_goes_on(1000), "the client gets through");
    ensure!(
        traffic.stranger_arrived() == 0,
        "{} packets of the stranger arrived",
        traffic.stranger_arrived()
    );
    shows(&guard, &["127.0.0.1:9455", "in use", "tries again", "[metrics] listen"])?;
    drop(taken);
    is_healthy(&guard)?;
    ensure!(guard.metrics()?.contains("guard_problems 0"), "the metrics are served");
    Ok(())
}

#[test]
fn guard_guards_although_ledger_and_control_socket_have_no_place() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy(ALLOW))?;
    // Where their directories should be there is a file.
    let blocker = guard.policy_file().with_file_name("later");
    fs::write(&blocker, "")?;
    guard.set_environment("GUARD_SOCKET", &blocker.join("guard.sock").display().to_string());
    guard.set_environment("GUARD_STATE", &blocker.join("guard.db").display().to_string());
    guard.run()?;
    ensure!(guard.is_attached(), "{}", guard.log());
    let ready = scene.server.output("curl", &["-s", "-m", "5", "http://127.0.0.1:9455/readyz"])?.1;
    for words in ["cannot open the ledger", "guard.sock", "cannot keep a copy of the live policy"] {
        ensure!(ready.contains(words), "{words:?} in {ready}");
    }
    fs::remove_file(&blocker)?;
    is_healthy(&guard)?;
    let (code, _, stderr) = guard.output(&["block", "10.9.9.9"])?;
    ensure!(code == Some(0), "{stderr}");
    Ok(())
}

#[test]
fn the_last_policy_guards_after_a_boot_whose_policy_file_has_an_error() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy(ALLOW))?;
    for (broken, words) in [(Some("nonsense"), "guard.toml"), (None, "No such file")] {
        guard.end(Signal::SIGTERM)?;
        // As after a boot: nothing is in the kernel.
        guard.output(&["detach"])?;
        ensure!(!guard.is_attached(), "nothing is left");
        match broken {
            Some(text) => fs::write(guard.policy_file(), text)?,
            None => fs::remove_file(guard.policy_file())?,
        }
        guard.run()?;
        let traffic = Traffic::start(&scene, 8000)?;
        ensure!(traffic.client_goes_on(1000), "the client gets through");
        ensure!(traffic.stranger_arrived() == 0, "the stranger does not");
        shows(&guard, &["the last one that was live guards instead", words])?;
        ensure!(guard.metrics()?.contains("guard_policy_last_reload_successful 0"), "{}", guard.metrics()?);
    }
    // What is mended is used.
    fs::write(guard.policy_file(), policy("[\"10.77.0.0/16\"]"))?;
    is_healthy(&guard)?;
    ensure!(guard.metrics()?.contains("guard_policy_last_reload_successful 1"), "{}", guard.metrics()?);
    Ok(())
}

#[test]
fn a_first_start_with_an_error_in_the_policy_changes_nothing_in_the_kernel() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, "nonsense")?;
    let file = guard.policy_file().display().to_string();
    let (code, _, stderr) = guard.output(&["run", "--config", &file])?;
    ensure!(code == Some(1) && stderr.contains("guard.toml"), "{code:?}: {stderr}");
    ensure!(!guard.is_attached() && !guard.pins().exists(), "nothing is in the kernel");
    Ok(())
}

#[test]
fn the_copy_of_the_policy_is_for_its_owner_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let copy = guard.state().with_extension("policy.json");
    ensure!(wait::within(PATIENCE, || copy.exists()), "{}", guard.log());
    ensure!(fs::metadata(&copy)?.permissions().mode() & 0o777 == 0o600);
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&copy)?)?;
    ensure!(kept["origin"] == guard.policy_file().display().to_string(), "{kept}");
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let file = guard.policy_file().display().to_string();
    let (code, _, stderr) = guard.output(&["run", "--config", &file])?;
    ensure!(code == Some(1) && stderr.contains("another guard runs"), "{code:?}: {stderr}");
    ensure!(guard.is_attached(), "the first one goes on");
    Ok(())
}
