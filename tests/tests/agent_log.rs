//! The log: a reader that stands still, and floods.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use guard_userspace::agent::Status;
use guard_userspace::blocks::{Blocked, Scope};
use guard_userspace::control::{BlockRequest, path};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[log]\nlevel = \"trace\"\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

/// Has the agent log lines until some are lost, whatever the pipe holds.
fn fill(guard: &Guard<'_>) -> Result<()> {
    let mut lost = 0;
    let full = wait::within(PATIENCE, || {
        let status = guard.client().get::<Status>(path::STATUS);
        lost = status.map_or(0, |status| status.lost.log_lines);
        lost > 0
    });
    ensure!(full, "no line is lost");
    Ok(())
}

#[test]
fn a_reader_of_the_log_that_stands_still_stops_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy())?;
    let file = guard.policy_file().display().to_string();
    let mut command = guard.command(&["run", "--config", &file])?;
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut agent = command.spawn().context("cannot start guard")?;
    let mut log = agent.stderr.take().context("no stderr")?;
    // Nobody reads: what is written waits in the pipe, of which the least is asked for.
    nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))
        .context("cannot make the pipe small")?;
    ensure!(wait::within(PATIENCE, || guard.metrics().is_ok()), "guard is not ready");
    fill(&guard)?;
    let is_told = || guard.problems().contains("lines of the log are lost");
    ensure!(wait::within(PATIENCE, is_told), "{}", guard.problems());
    ensure!(guard.metrics()?.contains("guard_log_lines_lost_total"), "the metrics are served");
    let (code, _, stderr) = guard.output(&["block", "10.9.9.9", "--for", "1h"])?;
    ensure!(code == Some(0), "{stderr}");
    let (healthy, text) =
        scene.server.output("curl", &["-sf", "-m", "5", "http://127.0.0.1:9455/healthz"])?;
    ensure!(healthy, "{text}");
    // It ends too, though its last words do not get out.
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM)?;
    ensure!(
        wait::within(PATIENCE, || agent.try_wait().is_ok_and(|ended| ended.is_some())),
        "it does not end"
    );
    let mut said = String::new();
    log.read_to_string(&mut said)?;
    ensure!(said.contains("BPF"), "what was written first is there: {said}");
    Ok(())
}

/// How many lines of the log have these words.
fn lines(guard: &Guard<'_>, words: &str) -> usize {
    guard.log().lines().filter(|line| line.contains(words)).count()
}

#[test]
fn a_flood_of_offences_that_cannot_be_blocked_is_one_problem_and_one_line() -> Result<()> {
    const ROOM: u32 = 1024;
    let scene = Scene::new()?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[capacity]\nblocks = {ROOM}\n[autoblock]\nconnections = 20\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let nets = (0..ROOM).map(|number| format!("100.64.{}.{}/32", number >> 8, number & 255).parse());
    let request = BlockRequest {
        nets: nets.collect::<Result<_, _>>()?,
        scope: Scope::Services,
        lasts: None,
        reason: None,
        caller: None,
        force: false,
        skip_protected: false,
        kill: false,
    };
    let _: Blocked = guard.client().post(path::BLOCK, &request)?;
    // They wait to be accepted, of which the kernel takes 128, and are connections all the same.
    let _server = scene.server.enter(|| TcpListener::bind("10.77.0.1:8000").context("cannot listen"))?;
    let address = "10.77.0.1:8000".parse()?;
    let _open = scene.client.enter(|| {
        let connect = |_| TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect");
        (0..120).map(connect).collect::<Result<Vec<_>>>()
    })?;
    let is_told = || {
        guard.problems().contains("sources that offend are not blocked") && guard.problems().contains("full")
    };
    ensure!(wait::within(PATIENCE, is_told), "{}: {}", guard.problems(), guard.log());
    // Later offences than the first have come to the agent by the time that a comparison has.
    std::thread::sleep(Duration::from_secs(12));
    let said = lines(&guard, "should be blocked");
    ensure!(said == 1, "{said} lines: {}", guard.log());
    ensure!(lines(&guard, "sources that offend are not blocked") == 1, "{}", guard.log());
    // Afterwards the log has their number.
    let counted = || lines(&guard, "more messages in a minute like") > 0;
    ensure!(wait::within(2 * PATIENCE, counted), "{}", guard.log());
    Ok(())
}
