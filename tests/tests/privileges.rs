//! What guard may do, as its unit and its processes have it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;

/// A traced process is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// What `systemd-analyze security` may say at most.
const MOST: f64 = 3.5;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn unit() -> Result<String> {
    fs::read_to_string(root().join("packaging/guard.service")).context("no unit")
}

/// The words of all lines of a setting.
fn setting(unit: &str, name: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn the_unit_exposes_no_more_than_it_must() -> Result<()> {
    let unit = root().join("packaging/guard.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output()
        .context("systemd-analyze is missing: install systemd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("Overall exposure level")).context("no figure")?;
    let mut figures = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
    let figure = figures.next().context("no figure in that line")?;
    println!("{line}");
    ensure!(figure <= MOST, "{text}");
    Ok(())
}

#[test]
fn the_unit_does_not_restart_an_agent_that_was_detached() -> Result<()> {
    let unit = unit()?;
    for name in ["RestartPreventExitStatus", "SuccessExitStatus"] {
        ensure!(setting(&unit, name) == ["4"], "{name}: {:?}", setting(&unit, name));
    }
    Ok(())
}

#[test]
fn each_capability_and_group_of_the_unit_has_its_reason() -> Result<()> {
    let (unit, page) = (unit()?, fs::read_to_string(root().join("docs/privileges.md"))?);
    for capability in setting(&unit, "CapabilityBoundingSet") {
        ensure!(page.contains(&format!("| `{capability}` |")), "{capability} has no reason");
    }
    for call in setting(&unit, "SystemCallFilter") {
        let call = call.trim_start_matches('~');
        ensure!(page.contains(&format!("`{call}`")), "{call} has no reason");
    }
    Ok(())
}

#[test]
fn every_thread_of_the_agent_refuses_dangerous_system_calls() -> Result<()> {
    let scene = Scene::new()?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", guard.pid()?))?.flatten() {
        let status = fs::read_to_string(task.path().join("status"))?;
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).context("no such field")?;
        ensure!(mode.trim() == "2", "{:?} has no filter: {mode}", task.path());
        threads += 1;
    }
    ensure!(threads > 1, "there are threads");
    Ok(())
}

/// The system calls of a group of systemd, and of the groups in it.
fn members(group: &str) -> Result<BTreeSet<String>> {
    if !group.starts_with('@') {
        return Ok(BTreeSet::from([group.to_owned()]));
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", group]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.starts_with(' ')).map(str::trim);
    let mut all = BTreeSet::new();
    for name in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        all.extend(members(name)?);
    }
    ensure!(!all.is_empty(), "{group} is no group");
    Ok(all)
}

/// What the unit allows: its lines add and take away, one after the other.
fn allowed(unit: &str) -> Result<BTreeSet<String>> {
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (takes_away, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
        for name in names.split_whitespace() {
            for call in members(name)? {
                if takes_away {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    // What a program cannot start or end without, systemd always allows.
    allowed.extend(members("@default")?);
    Ok(allowed)
}

#[test]
fn the_agent_calls_nothing_that_its_unit_refuses() -> Result<()> {
    let scene = Scene::new()?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    );
    let guard = Guard::install(&scene.server, &policy)?;
    let trace = guard.policy_file().with_file_name("trace");
    let run = guard.command(&["run", "--config", &guard.policy_file().display().to_string()])?;
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-e", "signal=none", "-o"])
        .arg(&trace)
        .arg(run.get_program())
        .args(run.get_args());
    for (name, value) in run.get_envs() {
        traced.env(name, value.context("a value")?);
    }
    let log = fs::File::create(guard.policy_file().with_file_name("traced.log"))?;
    let mut agent = scene.server.start(traced.stdin(Stdio::null()).stderr(log))?;
    ensure!(wait::within(PATIENCE, || guard.metrics().is_ok()), "it serves, if slowly");
    for verb in [
        &["block", "203.0.113.1", "--for", "1h", "--kill"][..],
        &["connections"],
        &["explain", "10.77.1.2"],
        &["reload"],
        &["unblock", "203.0.113.1"],
        &["status"],
        &["events"],
        &["recommend"],
        &["detach"],
    ] {
        let (code, _, stderr) = guard.output(verb)?;
        ensure!(code.is_some_and(|code| code != 2), "{verb:?}: {code:?} {stderr}");
    }
    let ended = wait::within(PATIENCE, || !matches!(agent.has_ended(), Ok(None)));
    ensure!(ended, "the agent ends with guard detach");
    let allowed = allowed(&unit()?)?;
    let text = fs::read_to_string(&trace)?;
    let calls =
        text.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once('(')).map(|(call, _)| call);
    let called: BTreeSet<&str> = calls
        .filter(|call| {
            call.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .collect();
    ensure!(
        called.contains("bpf") && called.contains("setns"),
        "the trace has what the agent does: {called:?}"
    );
    let refused: Vec<_> = called.iter().filter(|call| !allowed.contains(**call)).collect();
    ensure!(refused.is_empty(), "the unit refuses {refused:?}");
    Ok(())
}
