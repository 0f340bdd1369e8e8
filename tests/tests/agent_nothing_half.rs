//! What fails on the way is undone or tried again, and told; what cannot be looked at is not taken for absent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::faults::{self, Fault, Traced};
use guard_tests::guard::Guard;
use guard_tests::net::feed;
use guard_tests::scene::{ALLOW, SERVER, Scene};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::control::path;
use guard_userspace::datapath::pins::Pins;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

fn policy(interfaces: &str, more: &str) -> String {
    format!(
        "[attach]\ninterfaces = [{interfaces}]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\", \"tcp\"]\nallow = {ALLOW}\n{more}"
    )
}

/// Starts an agent that cannot start: what it said.
fn fails(guard: &Guard<'_>) -> Result<String> {
    let mut command = guard.command(&["run", "--config", &guard.policy_file().display().to_string()])?;
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn has_problem(guard: &Guard<'_>, words: &str) -> bool {
    let status = guard.client().get::<Status>(path::STATUS);
    status.is_ok_and(|status| status.problems.iter().any(|problem| problem.contains(words)))
}

fn is_healthy(guard: &Guard<'_>) -> bool {
    guard.client().get::<Status>(path::STATUS).is_ok_and(|status| status.problems.is_empty())
}

fn set_name(pins: &Pins) -> Result<String> {
    Ok(pins.current_set()?.context("no maps are pinned")?.name())
}

/// A traced start of an agent with a fault that is up.
fn up(guard: &Guard<'_>, fault: Fault) -> Result<Traced> {
    let mut agent = Traced::start_with(guard, fault)?;
    let is_up = wait::within(PATIENCE, || faults::is_ready(guard) || agent.has_ended());
    ensure!(is_up && !agent.has_ended(), "{}", faults::said(guard));
    let answers = || guard.client().get::<Status>(path::STATUS).is_ok();
    ensure!(wait::within(PATIENCE, answers), "{}", faults::said(guard));
    Ok(agent)
}

const fn once(call: &'static str, error: &'static str, time: usize) -> Fault {
    Fault { call, error, time, goes_on: false }
}

#[test]
fn a_start_that_guards_nothing_makes_no_policy_live() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("\"eth0\"", ""))?;
    guard.kill()?;
    guard.cut_links()?;
    // Another program has the card meanwhile.
    let _foreign = {
        let mut foreign =
            Guard::install(&scene.server, &policy("\"eth0\"", "[metrics]\nlisten = \"127.0.0.1:9456\"\n"))?;
        foreign.run_at("127.0.0.1:9456")?;
        foreign
    };
    let pins = Pins::new(guard.pins());
    let (live, set) = (guard.maps()?.live()?, set_name(&pins)?);
    // In the same maps, and in new ones of another size.
    for more in ["", "[capacity]\nblocks = 2048\n"] {
        fs::write(guard.policy_file(), policy("\"eth0\"", more).replace("8000", "9000"))?;
        let said = fails(&guard)?;
        ensure!(said.contains("another XDP program is attached"), "{more}: {said}");
        ensure!(set_name(&pins)? == set, "{more}: other maps are in use");
        ensure!(guard.maps()?.live()? == live, "{more}: another policy is live");
    }
    Ok(())
}

#[test]
fn a_policy_that_the_kernel_does_not_take_at_boot_gives_way_to_the_last_one() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("\"eth0\"", ""))?;
    guard.kill()?;
    guard.output(&["detach"])?;
    let no_memory = faults::time_of(&guard, "bpf", &["BPF_MAP_CREATE", "map_name=\"METERS\""])?;
    // As after a boot: nothing is pinned.
    guard.output(&["detach"])?;
    fs::write(guard.policy_file(), policy("\"eth0\"", "").replace("web", "next"))?;
    let mut agent = up(&guard, once("bpf", "ENOMEM", no_memory))?;
    ensure!(guard.is_attached(), "{}", faults::said(&guard));
    ensure!(faults::said(&guard).contains("the kernel does not take the policy"), "{}", faults::said(&guard));
    let status: Status = guard.client().get(path::STATUS)?;
    let problem = status.problems.iter().find(|problem| problem.contains("the kernel does not take it"));
    ensure!(problem.is_some() || status.services[0].name == "next", "{:?}", status.problems);
    // The kernel has memory again.
    let names = || guard.client().get::<Status>(path::STATUS).map(|status| status.services[0].name.clone());
    ensure!(wait::within(PATIENCE, || names().is_ok_and(|name| name == "next") && is_healthy(&guard)));
    agent.kill()
}

#[test]
fn of_more_blocks_than_there_is_room_for_as_many_come_back_as_fit() -> Result<()> {
    let scene = Scene::new()?;
    let capacity = |blocks: u32| policy("\"eth0\"", &format!("[capacity]\nblocks = {blocks}\n"));
    let mut guard = Guard::start_watching(&scene.server, &capacity(4096), false)?;
    let nets = |third: u8, count: u8| -> Vec<String> {
        (0..count).map(|last| format!("10.66.{third}.{last}")).collect()
    };
    let block = |nets: &[String], options: &[&str]| -> Result<()> {
        let mut command = guard.command(&["block", "-"])?;
        feed(command.args(options), &nets.join("\n"))
    };
    for third in 0..5 {
        block(&nets(third, 200), &["--scope", "services", "--for", "2h"])?;
    }
    block(&nets(5, 200), &["--scope", "services", "--for", "3h"])?;
    block(&nets(6, 200), &["--scope", "host", "--for", "1h"])?;
    block(&["10.67.0.0/24".into()], &["--scope", "services", "--for", "1h"])?;
    guard.kill()?;
    guard.output(&["detach"])?;
    fs::write(guard.policy_file(), capacity(1024))?;
    guard.run()?;
    ensure!(has_problem(&guard, "376 blocks of the ledger are not in force"), "{}", guard.problems());
    let is_in_force =
        |net: &str| -> Result<bool> { Ok(guard.maps()?.block(&net.parse::<IpNet>()?)?.is_some()) };
    for third in [5, 6] {
        for address in nets(third, 200) {
            ensure!(is_in_force(&format!("{address}/32"))?, "{address}");
        }
    }
    ensure!(is_in_force("10.67.0.0/24")? && guard.maps()?.blocks()?.len() == 1025);
    // Those that are left out are blocks all the same: they end by hand, and come when there is room.
    let out: Vec<String> = (0..5)
        .flat_map(|third| nets(third, 200))
        .filter(|net| !is_in_force(&format!("{net}/32")).unwrap_or(true))
        .collect();
    ensure!(out.len() == 376, "{}", out.len());
    let (code, _, said) = guard.output(&["unblock", &out[0]])?;
    ensure!(code == Some(0), "{said}");
    let unblock = |nets: &[String]| feed(&mut guard.command(&["unblock", "-"])?, &nets.join("\n"));
    unblock(&nets(6, 200))?;
    ensure!(wait::within(PATIENCE, || has_problem(&guard, "175 blocks")), "{}", guard.problems());
    unblock(&nets(5, 180))?;
    ensure!(wait::within(PATIENCE, || is_healthy(&guard)), "{}", guard.problems());
    ensure!(is_in_force(&format!("{}/32", out[1]))? && !is_in_force(&format!("{}/32", out[0]))?);
    Ok(())
}

#[test]
fn maps_of_the_guard_before_that_cannot_be_removed_are_a_problem_and_tried_again() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let capacity = |blocks: u32| policy("\"eth0\"", &format!("[capacity]\nblocks = {blocks}\n"));
    let mut guard = Guard::start(&scene.server, &capacity(1024))?;
    guard.kill()?;
    fs::write(guard.policy_file(), capacity(2048))?;
    let removed = faults::time_of(&guard, "unlink", &["/abi-"])?;
    let url = format!("http://{}:8000/", SERVER[0]);
    scene.stranger.output("curl", &["-s", "-m", "1", &url])?;
    let dropped = guard.counter("web", Reason::NotAllowed)?.packets;
    ensure!(dropped > 0, "the kernel goes on without an agent");
    fs::write(guard.policy_file(), capacity(1024))?;
    let mut agent = up(&guard, once("unlink", "EROFS", removed))?;
    let words = "cannot remove the maps of the guard before this one";
    ensure!(has_problem(&guard, words), "{}", faults::said(&guard));
    let sets = || -> Result<usize> {
        let names = fs::read_dir(guard.pins())?.flatten().map(|entry| entry.file_name());
        Ok(names.filter(|name| name.to_string_lossy().starts_with("abi-")).count())
    };
    ensure!(sets()? == 2);
    ensure!(wait::within(PATIENCE, || !has_problem(&guard, words)), "{}", faults::said(&guard));
    ensure!(sets()? == 1);
    let counted = guard.counts()?[&("web".into(), "drop".into(), "not_allowed".into())];
    ensure!(counted == dropped, "{counted} packets of {dropped}: none is counted twice");
    agent.kill()
}

#[test]
fn an_interface_that_cannot_be_let_go_is_a_problem_and_tried_again() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let host = &scene.server;
    host.ip("link add nic1 type veth peer name nic1-peer")?;
    host.ip("link set nic1 up")?;
    let guard = Guard::start_watching(host, &policy("\"eth0\", \"nic1\"", ""), false)?;
    let mut strace =
        Traced::attach(&guard, Fault { call: "unlink", error: "EROFS", time: 0, goes_on: true })?;
    // Until strace has it.
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{}/status", guard.pid().unwrap_or(0)));
        status.is_ok_and(|text| {
            text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        })
    };
    ensure!(wait::within(PATIENCE, traced));
    fs::write(guard.policy_file(), policy("\"eth0\"", ""))?;
    let (code, _, said) = guard.output(&["reload"])?;
    ensure!(code == Some(0), "{said}");
    ensure!(has_problem(&guard, "cannot remove"), "{}", guard.problems());
    ensure!(guard.is_attached());
    strace.let_go()?;
    ensure!(wait::within(PATIENCE, || is_healthy(&guard)), "{}", guard.problems());
    let pinned = Pins::new(guard.pins()).pinned_links()?;
    ensure!(pinned.len() == 1 && guard.is_attached(), "{pinned:?}");
    let (_, shown) = host.output("ip", &["-details", "link", "show", "dev", "nic1"])?;
    ensure!(!shown.contains("prog/xdp"), "{shown}");
    Ok(())
}

#[test]
fn a_pin_that_cannot_be_looked_at_is_not_taken_for_absent() -> Result<()> {
    faults::keep_mounts_apart()?;
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy("\"eth0\"", ""))?;
    guard.kill()?;
    let pins = Pins::new(guard.pins());
    let set = set_name(&pins)?;
    let looked = faults::time_of(&guard, "statx", &["/abi-"])?;
    for time in [looked, looked + 1] {
        let mut agent = Traced::start_with(&guard, once("statx", "EACCES", time))?;
        ensure!(wait::within(PATIENCE, || agent.has_ended()), "{}", faults::said(&guard));
        ensure!(faults::said(&guard).contains("cannot look at"), "{}", faults::said(&guard));
        ensure!(set_name(&pins)? == set && guard.is_attached(), "the maps are those before");
    }
    guard.run()?;
    ensure!(set_name(&pins)? == set && is_healthy(&guard), "{}", guard.log());
    Ok(())
}

#[test]
fn a_ledger_that_cannot_be_looked_at_is_not_made_again() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy("\"eth0\"", ""))?;
    let (code, _, said) = guard.output(&["block", "10.66.0.1"])?;
    ensure!(code == Some(0), "{said}");
    // The agent has given up the right to look into what is closed for its user.
    let directory = guard.state_directory();
    let before = fs::metadata(&directory)?.permissions();
    fs::set_permissions(&directory, Permissions::from_mode(0o000))?;
    let told = wait::within(PATIENCE, || has_problem(&guard, "cannot look at the ledger"));
    fs::set_permissions(&directory, before)?;
    ensure!(told, "{} {}", guard.problems(), guard.log());
    ensure!(!guard.log().contains("made anew"), "{}", guard.log());
    ensure!(wait::within(PATIENCE, || is_healthy(&guard)), "{}", guard.problems());
    let (_, blocks, _) = guard.output(&["blocks"])?;
    ensure!(blocks.contains("10.66.0.1"), "{blocks}");
    Ok(())
}

/// The processes that a process has started.
fn children(process: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    threads.flat_map(|thread| of(thread).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_server_of_metrics_whose_keeper_dies_as_it_begins_does_not_go_on_alone() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy("\"eth0\"", ""))?;
    let trace = guard.policy_file().with_extension("trace").display().to_string();
    // Each process asks late to end with what started it.
    let late = ["-o", &trace, "-e", "trace=prctl", "-e", "inject=prctl:delay_enter=3000000:when=1"];
    let mut agent = Traced::start(&guard, &late.map(str::to_owned))?;
    let below =
        |processes: Vec<String>| processes.iter().flat_map(|process| children(process)).collect::<Vec<_>>();
    let strace = agent.id().to_string();
    let keepers = || below(children(&strace));
    ensure!(wait::within(PATIENCE, || !below(keepers()).is_empty()), "no server: {}", faults::said(&guard));
    for keeper in keepers() {
        kill(Pid::from_raw(keeper.parse()?), Signal::SIGKILL)?;
    }
    // A server that goes on without its keeper answers now.
    let answers =
        || scene.server.output("curl", &["-sf", "http://127.0.0.1:9455/healthz"]).is_ok_and(|(ok, _)| ok);
    ensure!(!wait::within(Duration::from_secs(10), answers), "it answers");
    // Strace ends when all of them have.
    agent.kill()
}
