//! New first, then old, and old never without new: no start and no reload that fails takes the program off a card.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::Frame;
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, STRANGER, Scene, to_server};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::control::path;

const PATIENCE: Duration = Duration::from_secs(30);

fn policy(interfaces: &str) -> String {
    format!(
        "[attach]\ninterfaces = [{interfaces}]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\", \"tcp\"]\nallow = {ALLOW}\n"
    )
}

/// The kernel's number of the program on an interface: it changes when the program does.
fn program(host: &Host, interface: &str) -> Option<u32> {
    let (ok, text) = host.output("ip", &["-details", "link", "show", "dev", interface]).ok()?;
    let id = text.split("prog/xdp").nth(1)?.split(" id ").nth(1)?.split_whitespace().next()?;
    ok.then(|| id.parse().ok()).flatten()
}

fn add(host: &Host, name: &str) -> Result<()> {
    host.ip(&format!("link add {name} type veth peer name {name}-peer"))?;
    host.ip(&format!("link set {name} up"))
}

/// Starts an agent that cannot start: its exit status, and what it said.
fn fails(guard: &Guard<'_>, arguments: &[&str]) -> Result<String> {
    let mut command = guard.command(&["run"])?;
    let agent =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let output = agent.wait_with_output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_start_with_a_wrong_name_or_pattern_leaves_the_program_of_the_agent_before() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let mut guard = Guard::start(host, &policy("\"eth0\""))?;
    guard.kill()?;
    let before = program(host, "eth0").context("the kernel goes on")?;
    let generation = guard.maps()?.live()?.generation;
    for wrong in ["eth0typo", "nic*"] {
        let said = fails(&guard, &["-i", wrong, "-p", "9000", "-a", "0.0.0.0/0", "-a", "::/0"])?;
        ensure!(said.contains(wrong) && said.contains("eth0") && said.contains("--allow-missing"), "{said}");
        ensure!(program(host, "eth0") == Some(before), "{wrong}");
        ensure!(guard.maps()?.live()?.generation == generation, "{wrong}: the policy is the one before");
    }
    Ok(())
}

#[test]
fn an_interface_that_was_renamed_while_no_agent_ran_stays_guarded() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let mut guard = Guard::start(host, &policy("\"eth0\""))?;
    guard.kill()?;
    host.ip("link set eth0 name uplink")?;
    guard.run()?;
    ensure!(program(host, "uplink").is_some(), "{}", guard.log());
    let status: Status = guard.client().get(path::STATUS)?;
    ensure!(status.problems.iter().any(|problem| problem.contains("\"eth0\"")), "{:?}", status.problems);
    ensure!(
        status.interfaces.iter().any(|interface| interface.name == "uplink" && interface.mode != "none"),
        "{:?}",
        status.interfaces
    );
    host.ip("link set uplink name eth0")?;
    let healthy =
        || guard.client().get::<Status>(path::STATUS).is_ok_and(|status| status.problems.is_empty());
    ensure!(wait::within(PATIENCE, healthy), "{}", guard.log());
    Ok(())
}

#[test]
fn one_interface_that_is_missing_does_not_keep_guard_from_the_others() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start(host, &policy("\"eth0\", \"nic9\""))?;
    ensure!(program(host, "eth0").is_some(), "{}", guard.log());
    let status: Status = guard.client().get(path::STATUS)?;
    ensure!(status.problems.iter().any(|problem| problem.contains("nic9")), "{:?}", status.problems);
    add(host, "nic9")?;
    ensure!(wait::within(PATIENCE, || program(host, "nic9").is_some()), "{}", guard.log());
    Ok(())
}

#[test]
fn a_host_whose_interface_comes_later_says_so() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::install(host, &policy("\"nic*\""))?;
    let said = fails(&guard, &["--config", &guard.policy_file().display().to_string()])?;
    ensure!(said.contains("allow_missing"), "{said}");
    drop(guard);
    let text = policy("\"nic*\"").replace("[attach]", "[attach]\nallow_missing = true");
    let guard = Guard::start(host, &text)?;
    let ready = || host.output("curl", &["-sf", "http://127.0.0.1:9455/readyz"]).is_ok_and(|(ok, _)| ok);
    ensure!(!ready(), "nothing is guarded: {}", guard.log());
    add(host, "nic3")?;
    ensure!(wait::within(PATIENCE, || program(host, "nic3").is_some() && ready()), "{}", guard.log());
    Ok(())
}

#[test]
fn a_reload_that_names_nothing_is_refused_and_the_old_policy_stays() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    let guard = Guard::start_watching(host, &policy("\"eth0\""), false)?;
    let before = program(host, "eth0").context("it is guarded")?;
    for wrong in ["\"nic*\"", "\"eth0typo\"", "\"eth0\", \"eth1\"", "\"default-route\""] {
        fs::write(guard.policy_file(), policy(wrong))?;
        let (code, _, said) = guard.output(&["reload"])?;
        ensure!(code == Some(1), "{wrong}: {said}");
        ensure!(program(host, "eth0") == Some(before), "{wrong}");
        let status: Status = guard.client().get(path::STATUS)?;
        ensure!(
            status.policy.generation == 1 && status.policy.reload_error.is_some(),
            "{wrong}: {:?}",
            status.policy
        );
    }
    Ok(())
}

#[test]
fn the_program_leaves_an_interface_once_the_new_one_has_it() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    add(host, "nic1")?;
    // Held by another program, so guard cannot have it.
    let foreign = Guard::start(host, &policy("\"nic1\""))?;
    let mut guard = Guard::install(
        host,
        &policy("\"eth0\"").replace("[attach]", "[metrics]\nlisten = \"127.0.0.1:9456\"\n[attach]"),
    )?;
    guard.run_at("127.0.0.1:9456")?;
    fs::write(guard.policy_file(), fs::read_to_string(guard.policy_file())?.replace("\"eth0\"", "\"nic1\""))?;
    guard.output(&["reload"])?;
    let told = || {
        guard
            .client()
            .get::<Status>(path::STATUS)
            .is_ok_and(|status| status.problems.iter().any(|problem| problem.contains("eth0 stays guarded")))
    };
    ensure!(wait::within(PATIENCE, told), "{}", guard.log());
    ensure!(program(host, "eth0").is_some(), "old never without new");
    drop(foreign);
    ensure!(wait::within(PATIENCE, || program(host, "eth0").is_none()), "{}", guard.log());
    ensure!(program(host, "nic1").is_some());
    Ok(())
}

/// Moves the server's address onto a bridge that has `eth0` as a part.
fn bridge(host: &Host) -> Result<()> {
    host.ip("link add br0 type bridge mcast_snooping 0")?;
    host.ip("link set br0 address 02:00:00:00:00:01")?;
    host.ip("link set br0 up")?;
    host.ip("address delete 10.77.0.1/16 dev eth0")?;
    host.ip("link set eth0 master br0")?;
    host.ip("address add 10.77.0.1/16 dev br0")
}

#[test]
fn moving_from_a_bridge_to_its_part_and_back_lets_no_packet_in() -> Result<()> {
    let scene = Scene::new()?;
    let host = &scene.server;
    bridge(host)?;
    let guard = Guard::start_watching(host, &policy("\"br0\""), false)?;
    let arrived = UdpCounter::listen(host, 8000)?;
    let wire = Wire::open(&scene.stranger)?;
    let frame = to_server(Frame::udp(STRANGER[0], 8000)).build();
    let over = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| -> Result<u64> {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                sent += u64::from(wire.send(&frame).is_ok());
            }
            sent
        });
        let result = (|| {
            for _ in 0..10 {
                for (interface, other) in [("eth0", "br0"), ("br0", "eth0")] {
                    fs::write(guard.policy_file(), policy(&format!("\"{interface}\"")))?;
                    let (code, _, said) = guard.output(&["reload"])?;
                    ensure!(code == Some(0), "{said}");
                    let moved = || program(host, interface).is_some() && program(host, other).is_none();
                    ensure!(wait::within(PATIENCE, moved), "to {interface}: {}", guard.log());
                }
            }
            Ok(())
        })();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        result.map(|()| sent)
    })?;
    ensure!(sent > 1_000, "{sent} packets");
    ensure!(arrived.settled() == 0, "{} of {sent} packets of a stranger arrived", arrived.count());
    Ok(())
}
