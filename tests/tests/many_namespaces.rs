//! Any user can make network namespaces by the hundred, and listen in each. They take no descriptors of the agent, and it finds the
//! connections of clients as before.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::crowd::Crowd;
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::streams::{StreamingServer, connect, stream};
use guard_userspace::sockets::{Counted, Places, Sockets};

const MANY: usize = 200;
/// The kernel makes one namespace at a time.
static ONE_CROWD: Mutex<()> = Mutex::new(());
const PATIENCE: Duration = Duration::from_secs(20);
/// The path of the server that streams.
const STREAMING: &str = env!("CARGO_BIN_EXE_guard-streaming-server");

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\nlimits = \"few\"\n[limits.few]\nmax_connections = 5\n"
    )
}

#[test]
fn a_look_visits_a_bounded_number_of_namespaces_and_all_of_them_in_turn() -> Result<()> {
    let _alone = ONE_CROWD.lock();
    let crowd = [Crowd::listening(MANY, 8000)?, Crowd::idle(MANY)?];
    // Only these: there may be others on this machine.
    let directory = tempfile::tempdir()?;
    for process in crowd.iter().flat_map(Crowd::processes) {
        symlink(format!("/proc/{process}"), directory.path().join(process.to_string()))?;
    }
    let places = Places { processes: directory.path().into(), named: Vec::new() };
    let mut sockets = Sockets::within(places)?;
    let (ports, counted) = ([8000].into(), Counted::nothing(|_| false));
    let mut seen = std::collections::BTreeSet::new();
    let mut looks = 0;
    while seen.len() < 2 * MANY + 1 && looks < 40 {
        let found = sockets.list(&ports, &counted)?;
        ensure!(found.namespaces.len() < MANY, "{} at once", found.namespaces.len());
        seen.extend(found.namespaces);
        looks += 1;
    }
    println!("{} namespaces in {looks} looks", seen.len());
    ensure!(seen.len() == 2 * MANY + 1, "{} in {looks} looks", seen.len());
    Ok(())
}

#[test]
fn hundreds_of_namespaces_take_no_descriptors_of_the_agent_and_hide_no_connection() -> Result<()> {
    let _alone = ONE_CROWD.lock();
    let scene = Scene::new()?;
    let container = scene.server.publish(8000, 9000)?;
    let server = StreamingServer::start(&container, STREAMING, 9000)?;
    let guard = Guard::start(&scene.server, &policy())?;
    let _crowd = [Crowd::listening(MANY, 8000)?, Crowd::listening(MANY, 9000)?];
    let files = || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/fd", guard.pid()?))?.count()) };
    // Some more than it has: those of a request, and of a look.
    let limit = format!("--nofile={0}:{0}", files()? + 40);
    let limited = Command::new("prlimit").args([&limit, "--pid", &guard.pid()?.to_string()]).status()?;
    ensure!(limited.success(), "cannot limit the agent's open files");
    let streams = [stream(&scene.client, SERVER[0])?, stream(&scene.client, SERVER[0])?];
    ensure!(server.has(2, PATIENCE));
    for _ in 0..5 {
        let (code, stdout, stderr) = guard.output(&["connections", "--json"])?;
        ensure!(code == Some(0) && stdout.contains("\"established\": 2"), "{stdout}{stderr}");
    }
    // Two comparisons.
    std::thread::sleep(Duration::from_secs(22));
    let metrics = guard.metrics()?;
    ensure!(metrics.contains("guard_connections{service=\"web\"} 2\n"), "{metrics}");
    ensure!(metrics.contains("guard_connection_drift_total 0\n"), "{metrics}");
    for scope in ["services", "host"] {
        let (code, stdout, stderr) = guard.output(&["block", CLIENT[0], "--kill", "--scope", scope])?;
        let closed =
            if scope == "services" { "2 connections were closed" } else { "0 connections were closed" };
        ensure!(code == Some(0) && stdout.contains(closed), "{scope}: {stdout}{stderr}");
    }
    ensure!(server.has(0, PATIENCE), "{}", server.active()?);
    guard.output(&["unblock", CLIENT[0]])?;
    let open = connect(&scene.client, SERVER[0], 5)?;
    ensure!(connect(&scene.client, SERVER[0], 1).is_err(), "max_connections");
    let log = guard.log();
    ensure!(!log.contains("open files") && !log.contains("os error 24"), "{log}");
    drop((open, streams));
    Ok(())
}

#[test]
fn the_agent_takes_all_descriptors_that_it_may_have() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", guard.pid()?))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit")?;
    let mut words = line.split_whitespace();
    let (soft, hard) = (words.next(), words.next());
    ensure!(soft.is_some() && soft == hard, "{line}");
    let is_low = Command::new("sh").args(["-c", "test $(ulimit -Sn) = $(ulimit -Hn)"]).status()?.success();
    println!(
        "{}",
        if is_low { "the limit of this test is no lower than that of the agent" } else { "raised" }
    );
    Ok(())
}
