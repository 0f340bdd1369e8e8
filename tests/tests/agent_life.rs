//! The life of an agent: what it goes back on, what it repairs, what it survives, and what it costs while nothing happens.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guard_tests::guard::{Guard, binary};
use guard_tests::net::Host;
use guard_tests::pause_free::Traffic;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::{cpu_time, wait};
use guard_userspace::agent::{Applied, Status};
use guard_userspace::blocks::{Blocked, Scope};
use guard_userspace::control::{BlockRequest, path};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

fn policy(allow: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {allow}\n"
    )
}

fn is_attached(host: &Host) -> bool {
    host.output("ip", &["-details", "link", "show", "dev", "eth0"])
        .is_ok_and(|(_, text)| text.contains("xdp"))
}

#[test]
fn a_policy_that_nobody_confirms_goes_away_without_an_agent() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let traffic = Traffic::start(&scene, 8000)?;
    ensure!(traffic.client_goes_on(1000), "the client gets through");
    let open = guard.policy_file().with_file_name("open.toml");
    fs::write(&open, policy("[\"0.0.0.0/0\", \"::/0\"]"))?;
    let asked = Instant::now();
    let (code, stdout, stderr) = guard.output(&["apply", &open.display().to_string(), "--confirm", "2s"])?;
    ensure!(code == Some(0) && stdout.contains("guard confirm"), "{stdout}{stderr}");
    guard.kill()?;
    ensure!(wait::within(PATIENCE, || traffic.stranger_arrived() > 1000), "the new policy is live");
    let mut last = (traffic.stranger_arrived(), Instant::now());
    let over = wait::within(PATIENCE, || {
        let now = traffic.stranger_arrived();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500) && asked.elapsed() > Duration::from_millis(2500)
    });
    let lasted = last.1 - asked;
    println!("the policy was in force until {lasted:?} after it was asked for");
    // The last packet may come some time before the deadline: who sends it waits for a CPU.
    ensure!(over && lasted > Duration::from_millis(1500), "the old policy is back after {lasted:?}");
    ensure!(traffic.client_goes_on(1000), "the client gets through under the old policy");
    let (code, ..) = guard.output(&["confirm"])?;
    ensure!(code == Some(3), "it is too late to confirm");
    guard.run()?;
    let status: Status = guard.client().get(path::STATUS)?;
    ensure!(status.policy.unconfirmed_for.is_none(), "{:?}", status.policy);
    Ok(())
}

#[test]
fn a_policy_is_confirmed_with_and_without_an_agent() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let file = guard.policy_file().display().to_string();
    for running in [true, false] {
        let (code, _, stderr) = guard.output(&["apply", &file, "--confirm", "30s"])?;
        ensure!(code == Some(0), "{stderr}");
        let (code, stdout, _) = guard.output(&["status"])?;
        ensure!(code == Some(0) && stdout.contains("NOT CONFIRMED"), "{stdout}");
        let (code, _, stderr) = guard.output(&["reload"])?;
        ensure!(
            code == Some(1) && stderr.contains("guard confirm"),
            "a reload would lose the way back: {stderr}"
        );
        if !running {
            guard.kill()?;
        }
        let (code, stdout, stderr) = guard.output(&["confirm"])?;
        ensure!(code == Some(0), "agent {running}: {stdout}{stderr}");
        let (code, ..) = guard.output(&["confirm"])?;
        ensure!(code == Some(3), "once is enough");
    }
    Ok(())
}

#[test]
fn the_policy_file_is_watched() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let generation =
        || guard.client().get::<Status>(path::STATUS).map_or(0, |status| status.policy.generation);
    // Replaced, as configuration management does it, and written in place.
    let new = guard.policy_file().with_extension("new");
    fs::write(&new, policy("[\"10.0.0.0/8\"]"))?;
    fs::rename(&new, guard.policy_file())?;
    ensure!(wait::within(PATIENCE, || generation() == 2), "replaced: {}", guard.log());
    fs::write(guard.policy_file(), policy("[\"10.77.0.0/16\"]"))?;
    ensure!(wait::within(PATIENCE, || generation() == 3), "written: {}", guard.log());
    fs::write(guard.policy_file(), "nonsense")?;
    let refused = || guard.metrics().is_ok_and(|text| text.contains("guard_policy_last_reload_successful 0"));
    ensure!(wait::within(PATIENCE, refused), "refused: {}", guard.log());
    ensure!(generation() == 3, "the old one stays");
    Ok(())
}

#[test]
fn what_somebody_removes_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy(ALLOW))?;
    // The pins, which also hold the link.
    for entry in fs::read_dir(guard.pins())?.flatten() {
        // The agent may be putting some back already.
        let removed = || fs::remove_dir_all(entry.path()).is_ok() || !entry.path().exists();
        ensure!(wait::within(PATIENCE, removed), "{} cannot be removed", entry.path().display());
    }
    ensure!(is_attached(&scene.server), "the agent holds the program too");
    let links = guard.pins().join("links");
    let back = || fs::read_dir(&links).is_ok_and(|mut links| links.next().is_some());
    ensure!(wait::within(PATIENCE, back), "the pins are back: {}", guard.log());
    guard.kill()?;
    ensure!(is_attached(&scene.server), "and the program outlives the agent again");
    guard.run()?;
    ensure!(guard.log().contains("took over eth0"), "the next start finds all of it: {}", guard.log());
    Ok(())
}

#[test]
fn a_hundred_kills_at_random_moments_leave_nothing_that_a_start_cannot_take_over() -> Result<()> {
    let scene = Scene::new()?;
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let mut guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let file = guard.policy_file().display().to_string();
    for number in 0..100 {
        if number % 10 == 0 {
            // Now and then from nothing, where the most is made.
            guard.output(&["detach"])?;
        }
        let mut agent = scene
            .server
            .start(guard.command(&["run", "--config", &file])?.stdin(Stdio::null()).stderr(Stdio::null()))?;
        thread::sleep(Duration::from_micros(rng.u64(0..150_000)));
        let mut command = None;
        match rng.u8(0..3) {
            0 => {}
            1 => {
                // In the middle of a reload.
                agent.signal(Signal::SIGHUP).or_else(|_| ensured_ended(&mut agent))?;
                thread::sleep(Duration::from_micros(rng.u64(0..80_000)));
            }
            _ => {
                // In the middle of a block; the command may find no agent and do it itself.
                let net = format!("10.90.{number}.0/24");
                let block = &mut guard.command(&["block", &net, "--for", "1h"])?;
                let block = block.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                command = Some(scene.server.start(block)?);
                thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
            }
        }
        agent.end_by(Signal::SIGKILL, PATIENCE)?;
        drop(command);
    }
    guard.run().with_context(|| format!("seed {seed}"))?;
    let (code, stdout, _) = guard.output(&["status"])?;
    ensure!(
        code == Some(0) && stdout.contains("eth0") && !stdout.contains("PROBLEM"),
        "seed {seed}: {stdout}"
    );
    Ok(())
}

fn ensured_ended(agent: &mut guard_tests::net::Running) -> Result<()> {
    ensure!(agent.has_ended()?.is_some(), "a signal does not reach an agent that runs");
    Ok(())
}

#[test]
fn clients_that_are_slow_silent_or_talk_nonsense_hold_up_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let socket = guard.socket();
    let before = memory(&guard)?;
    let connect = || UnixStream::connect(&socket).context("cannot connect");
    // More than are served at a time: the silent ones must be let go of.
    let mut bad = (0..40).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for (number, stream) in bad.iter_mut().enumerate() {
        // They may be cut off at any moment.
        let _ = match number % 4 {
            0 => stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: "),
            1 => stream.write_all(&[0xff; 64]),
            2 => stream.write_all(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n{"),
            _ => Ok(()),
        };
    }
    let asked = Instant::now();
    let status: Status = guard.client().get(path::STATUS)?;
    println!("an honest client waited {:?}", asked.elapsed());
    ensure!(asked.elapsed() < PATIENCE && status.pid.is_some(), "after {:?}", asked.elapsed());
    // A head without end.
    let mut endless = connect()?;
    let line = [b'x'; 1 << 16];
    let sent = (0..1000).take_while(|_| endless.write_all(&line).is_ok()).count();
    ensure!(sent < 1000, "64 MB of a head were taken");
    let mut rest = Vec::new();
    let _ = endless.read_to_end(&mut rest);
    ensure!(guard.client().get::<Status>(path::STATUS).is_ok(), "the agent goes on");
    let grown = memory(&guard)?.saturating_sub(before);
    ensure!(grown < 16 << 20, "memory has grown by {grown} bytes");
    Ok(())
}

#[test]
fn others_than_root_and_the_group_are_refused_in_a_sentence() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let directory = guard.socket().parent().context("a directory")?.to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let copy = directory.join("guard");
    fs::copy(binary()?, &copy)?;
    let (copy, socket) = (copy.display().to_string(), guard.socket().display().to_string());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", &copy, "--socket", &socket];
    for verb in ["status", "reload", "detach"] {
        let (ok, text) = scene.server.output("setpriv", &[&nobody[..], &[verb]].concat())?;
        ensure!(!ok && text.contains("only by root and the group guard"), "{verb}: {text}");
        ensure!(text.trim().lines().count() == 1, "{verb}: {text}");
    }
    Ok(())
}

/// A directory for the pins of another user, on a file system that is for root alone where guard or systemd has mounted it.
fn pins_for(guard: &Guard<'_>, user: u32) -> Result<PathBuf> {
    let pins = guard.pins();
    let bpffs = pins.parent().context("a file system")?;
    if fs::create_dir(&pins).is_err() {
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("cannot mount")?;
        fs::create_dir(&pins)?;
    }
    let mode = fs::metadata(bpffs)?.permissions().mode();
    fs::set_permissions(bpffs, fs::Permissions::from_mode(mode | 0o001))?;
    fs::set_permissions(&pins, fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(&pins, Some(user), Some(user))?;
    Ok(pins)
}

#[test]
fn another_user_with_three_capabilities_is_enough() -> Result<()> {
    const NOBODY: u32 = 65534;
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy(ALLOW))?;
    let directory = guard.socket().parent().context("a directory")?.to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let copy = directory.join("guard");
    fs::copy(binary()?, &copy)?;
    std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY))?;
    let pins = pins_for(&guard, NOBODY)?;
    let mut command = scene.server.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    let capabilities = "-all,+bpf,+perfmon,+net_admin";
    command.args([format!("--inh-caps={capabilities}"), format!("--ambient-caps={capabilities}")]);
    command.arg(&copy).args(["run", "--config", &guard.policy_file().display().to_string()]);
    command.env("GUARD_PIN_PATH", guard.pins()).env("GUARD_SOCKET", guard.socket());
    command.env("GUARD_STATE", directory.join("guard.db"));
    let log = directory.join("other.log");
    let mut agent = scene.server.start(command.stdin(Stdio::null()).stderr(fs::File::create(&log)?))?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let up = wait::within(PATIENCE, || {
        said().contains("guard is ready") || !matches!(agent.has_ended(), Ok(None))
    });
    ensure!(up && is_attached(&scene.server), "{}", said());
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    ensure!(status.contains("Uid:\t65534\t65534"), "{status}");
    guard.client().post::<Applied>(path::RELOAD, &()).with_context(said)?;
    // What it cannot tell it does not guess.
    let (code, _, stderr) = guard.output(&["explain", "10.77.1.2"])?;
    ensure!(code == Some(1) && stderr.contains("CAP_SYS_ADMIN"), "{stderr}");
    // Later too: an interface that comes back needs the program anew.
    guard.cut_links()?;
    ensure!(wait::within(PATIENCE, || is_attached(&scene.server)), "{}", said());
    agent.end_by(Signal::SIGTERM, PATIENCE)?;
    // They are that user's, so `guard detach` of root does not touch them.
    let (code, _, stderr) = guard.output(&["detach"])?;
    ensure!(code == Some(1) && stderr.contains("belongs to the user 65534"), "{stderr}");
    fs::remove_dir_all(pins)?;
    Ok(())
}

/// Resident bytes of the agent.
fn memory(guard: &Guard<'_>) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib * 1024)
}

/// What this machine spends on opening, reading and closing a small file of the kernel's: a measure of how fast it is.
fn a_read() -> Result<Duration> {
    const READS: u32 = 2000;
    let reads = || (0..READS).try_for_each(|_| fs::read_to_string("/proc/self/status").map(drop));
    let (read, spent) = cpu_time::of(reads)?;
    read?;
    Ok(spent / READS)
}

#[test]
fn an_idle_agent_costs_next_to_nothing() -> Result<()> {
    const TIME: Duration = Duration::from_secs(20);
    /// What it does is for the greatest part to ask the kernel.
    const MOST: f64 = 600.0;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let request = BlockRequest {
        nets: (0..10_000_u32)
            .map(|number| Ok(format!("100.64.{}.{}", number >> 8, number & 255).parse::<IpAddr>()?.into()))
            .collect::<Result<_>>()?,
        scope: Scope::Services,
        lasts: Some(3_600_000),
        reason: None,
        caller: None,
        force: false,
        kill: false,
        skip_protected: false,
    };
    let blocked: Blocked = guard.client().post(path::BLOCK, &request)?;
    ensure!(blocked.added == 10_000, "{blocked:?}");
    let before = cpu_time::of_process(guard.pid()?)?;
    thread::sleep(TIME);
    let used = cpu_time::of_process(guard.pid()?)?.saturating_sub(before);
    let memory = memory(&guard)?;
    let reads = used.as_secs_f64() / TIME.as_secs_f64() / a_read()?.as_secs_f64();
    println!(
        "idle: {used:?} of a CPU in {TIME:?}, as much a second as {reads:.0} reads; {} KiB",
        memory / 1024
    );
    ensure!(reads <= MOST, "as much a second as {reads:.0} reads of a small file");
    ensure!(memory < 25 << 20, "{memory} bytes");
    Ok(())
}

#[test]
fn capabilities_that_are_not_needed_are_gone() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(ALLOW))?;
    let tasks = fs::read_dir(format!("/proc/{}/task", guard.pid()?))?;
    // SYS_ADMIN, SYS_PTRACE, NET_ADMIN, PERFMON, BPF.
    let kept: u64 = 1 << 21 | 1 << 19 | 1 << 12 | 1 << 38 | 1 << 39;
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let held = u64::from_str_radix(field(set).context("no such set")?, 16)?;
            ensure!(held & !kept == 0, "{set} {held:x} of {:?}", task.path());
        }
        ensure!(field("NoNewPrivs:") == Some("1"), "{status}");
    }
    // What it does later, it can do with what is left.
    guard.client().post::<Applied>(path::RELOAD, &())?;
    Ok(())
}
