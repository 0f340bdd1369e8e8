//! The pins know their network namespace: the numbers of interfaces mean nothing in another one.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

fn is_attached(host: &Host, interface: &str) -> bool {
    host.output("ip", &["-details", "link", "show", "dev", interface])
        .is_ok_and(|(ok, text)| ok && text.contains("prog/xdp"))
}

#[test]
fn a_start_in_another_namespace_with_the_same_pins_gets_a_clear_error() -> Result<()> {
    let scene = Scene::new()?;
    // Its interface has the number of the server's.
    let elsewhere = &scene.client;
    let mut guard = Guard::start(&scene.server, &policy())?;
    guard.kill()?;
    let mut command = elsewhere.command(&guard_tests::guard::binary()?.display().to_string());
    command.args(["run", "--config", &guard.policy_file().display().to_string()]);
    command
        .env("GUARD_PIN_PATH", guard.pins())
        .env("GUARD_SOCKET", guard.socket())
        .env("GUARD_STATE", guard.state());
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(said.contains("another network namespace") && said.contains("GUARD_PIN_PATH"), "{said}");
    ensure!(!is_attached(elsewhere, "eth0"), "nothing is there");
    ensure!(is_attached(&scene.server, "eth0"), "and the guard of the other goes on");
    guard.run()?;
    ensure!(guard.log().contains("took over"), "{}", guard.log());
    Ok(())
}

#[test]
fn the_pins_of_a_namespace_that_is_gone_are_taken() -> Result<()> {
    let scene = Scene::new()?;
    let other = Scene::new()?;
    let mut first = Guard::start(&other.server, &policy())?;
    first.kill()?;
    let pins = first.pins();
    // Its interface ends with it.
    other.server.ip("link delete eth0")?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    guard.set_environment("GUARD_PIN_PATH", &pins.display().to_string());
    guard.run()?;
    ensure!(is_attached(&scene.server, "eth0"), "{}", guard.log());
    Ok(())
}

#[test]
fn an_interface_that_leaves_the_namespace_and_comes_back_was_never_open() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start(host, &policy())?;
    let client = &scene.client;
    // By way of a process there: the namespaces of the tests have no names that `ip` of the host could use.
    let holder = client.start(client.command("sleep").arg("600"))?;
    let away = format!("link set eth0 name moved netns {}", holder.id());
    host.ip(&away)?;
    let missing = || {
        guard.output(&["status"]).is_ok_and(|(_, text, _)| text.contains("there is no interface \"eth0\""))
    };
    ensure!(wait::within(PATIENCE, missing), "{}", guard.log());
    ensure!(is_attached(client, "moved"), "the program goes with the device");
    let back = host.start(host.command("sleep").arg("600"))?;
    client.ip(&format!("link set moved name eth0 netns {}", back.id()))?;
    ensure!(is_attached(host, "eth0"), "it was never off: {}", guard.log());
    let healthy = || guard.output(&["status"]).is_ok_and(|(_, text, _)| !text.contains("PROBLEM"));
    ensure!(wait::within(PATIENCE, healthy), "{}", guard.log());
    ensure!(is_attached(host, "eth0"), "{}", guard.log());
    Ok(())
}
