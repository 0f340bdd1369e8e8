//! Metrics and health come from a process of their own that can do nothing else.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

/// The processes that a process has started.
fn children(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| field(*id, "PPid:").is_ok_and(|parent| parent == of.to_string())).collect()
}

fn field(process: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    Ok(value.trim().to_owned())
}

/// The process that reads HTTP.
fn server(guard: &Guard<'_>) -> Result<u32> {
    let keepers = children(guard.pid()?);
    ensure!(keepers.len() == 1, "one process is started by the agent: {keepers:?}");
    let servers = children(keepers[0]);
    ensure!(servers.len() == 1, "and one by that: {servers:?}");
    Ok(servers[0])
}

#[test]
fn what_reads_http_of_the_network_has_no_privilege_and_few_system_calls() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let server = server(&guard)?;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(field(server, set)?.trim_start_matches('0').is_empty(), "{set} {}", field(server, set)?);
    }
    ensure!(field(server, "NoNewPrivs:")? == "1" && field(server, "Seccomp:")? == "2");
    // No map, no file: sockets, and what waits for them.
    for entry in fs::read_dir(format!("/proc/{server}/fd"))?.flatten() {
        let target = fs::read_link(entry.path())?.display().to_string();
        let number: u32 = entry.file_name().to_string_lossy().parse()?;
        let is_harmless = target.starts_with("socket:") || target.starts_with("anon_inode:[event");
        ensure!(is_harmless || number <= 2, "descriptor {number} is {target}");
    }
    ensure!(guard.metrics()?.contains("guard_packets_total"), "and it serves");
    Ok(())
}

#[test]
fn a_server_of_metrics_that_dies_is_noticed_and_replaced() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    for _ in 0..3 {
        let first = server(&guard)?;
        kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL)?;
        let replaced = || guard.metrics().is_ok() && server(&guard).is_ok_and(|second| second != first);
        ensure!(wait::within(PATIENCE, replaced), "{}", guard.log());
    }
    ensure!(
        guard.log().contains("the server of metrics is started again: it was ended by SIGKILL"),
        "{}",
        guard.log()
    );
    // The server answers a moment before the agent has read that it listens.
    let is_well = || guard.output(&["status"]).is_ok_and(|(_, stdout, _)| !stdout.contains("PROBLEM"));
    ensure!(wait::within(PATIENCE, is_well), "{:?}", guard.output(&["status"])?);
    Ok(())
}

#[test]
fn nothing_of_it_outlives_the_agent() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let server = server(&guard)?;
    guard.kill()?;
    let gone = || field(server, "State:").is_err();
    ensure!(wait::within(PATIENCE, gone), "process {server} is still there");
    guard.run()?;
    guard.end(Signal::SIGTERM)?;
    guard.run()
}

#[test]
fn a_port_that_another_process_has_is_a_problem_and_no_end() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let taken = scene.server.enter(|| TcpListener::bind(("127.0.0.1", 9455)).context("cannot listen"))?;
    let mut agent = scene.server.start(&mut guard.command(&[
        "run",
        "--config",
        &guard.policy_file().display().to_string(),
    ])?)?;
    let told = || {
        guard.output(&["status"]).is_ok_and(|(code, stdout, _)| {
            code == Some(0)
                && stdout.contains("eth0")
                && stdout.contains("PROBLEM")
                && stdout.contains("127.0.0.1:9455")
        })
    };
    ensure!(wait::within(PATIENCE, told), "{:?}", guard.output(&["status"])?);
    drop(taken);
    ensure!(wait::within(PATIENCE, || guard.metrics().is_ok()), "it is served when the port is free");
    agent.end_by(Signal::SIGTERM, PATIENCE)?;
    guard.run()
}
