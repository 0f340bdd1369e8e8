//! The ledger and the kernel: what holds, and what is known afterwards, when the disk is full, the file broken or gone, the agent killed or the
//! clock set.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use guard_tests::cpu_time;
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const ADDRESSES: usize = 100_000;
const PREFIXES: usize = 10_000;
/// Of a build without optimisation; one with it takes half a second.
const OF_A_LIST: Duration = Duration::from_secs(5);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n"
    )
}

fn run(guard: &Guard<'_>, arguments: &[&str]) -> Result<String> {
    let (code, stdout, stderr) = guard.output(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(stdout)
}

fn json(guard: &Guard<'_>, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&run(guard, &[arguments, &["--json"]].concat())?)?)
}

/// What `guard blocks` lists, sorted.
fn blocked(guard: &Guard<'_>) -> Result<Vec<String>> {
    let list = json(guard, &["blocks"])?;
    let net = |block: &Value| Some(block["net"].as_str()?.trim_end_matches("/32").to_owned());
    let mut nets: Vec<String> = list.as_array().context("no list")?.iter().filter_map(net).collect();
    nets.sort();
    Ok(nets)
}

fn is_dropped(guard: &Guard<'_>, source: &str) -> Result<bool> {
    Ok(json(guard, &["explain", source, "--port", "22"])?[0]["verdict"] == "drop")
}

fn problems(guard: &Guard<'_>) -> Result<String> {
    Ok(json(guard, &["status"])?["problems"].to_string())
}

/// As after a reboot: nothing is left but the ledger.
fn reboot(guard: &mut Guard<'_>) -> Result<()> {
    guard.end(Signal::SIGTERM)?;
    run(guard, &["detach"])?;
    ensure!(!guard.pins().exists());
    guard.run()
}

/// Starts a command that reads a list.
fn feed(guard: &Guard<'_>, verb: &str, list: &Path) -> Result<Child> {
    let mut command = guard.command(&[verb, "-"])?;
    command.stdin(fs::File::open(list)?).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot run guard")
}

/// What a command said that has ended.
fn said(child: Child) -> Result<String> {
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

struct Lists {
    directory: tempfile::TempDir,
}

impl Lists {
    fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    fn file(&self, name: &str, nets: impl IntoIterator<Item = String>) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::write(&path, nets.into_iter().map(|net| net + "\n").collect::<String>())?;
        Ok(path)
    }

    fn addresses(&self, name: &str, count: usize) -> Result<PathBuf> {
        self.file(name, (0..count).map(|number| address(number).to_string()))
    }
}

fn address(number: usize) -> std::net::Ipv4Addr {
    (0x6440_0000 + u32::try_from(number).unwrap_or(0)).into()
}

/// In all three: /24 within /16 within /9.
fn nested() -> impl Iterator<Item = String> {
    let inner = (0..PREFIXES).map(|number| format!("120.{}.{}.0/24", number >> 8, number & 255));
    let middle = (0..PREFIXES.div_ceil(256)).map(|number| format!("120.{number}.0.0/16"));
    inner.chain(middle).chain(["120.0.0.0/9".into()])
}

#[test]
fn a_long_list_is_one_change_and_costs_little() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let both = (0..ADDRESSES).map(|number| address(number).to_string()).chain(nested());
    let cases = [
        ("addresses", lists.addresses("addresses", ADDRESSES)?, ADDRESSES),
        ("prefixes in prefixes", lists.file("nested", nested())?, nested().count()),
        ("both", lists.file("both", both)?, ADDRESSES + nested().count()),
    ];
    for running in [true, false] {
        for (name, list, count) in &cases {
            for (verb, expected) in [
                ("block", "are blocked until"),
                ("block", "0 are blocked until"),
                ("unblock", "are not blocked"),
            ] {
                let spent = || if running { cpu_time::of_process(guard.pid()?) } else { Ok(Duration::ZERO) };
                let before = spent()?;
                let mut child = feed(&guard, verb, list)?;
                let (status, of_command) = cpu_time::of_child(&mut child)?;
                let all = of_command + spent()?.saturating_sub(before);
                let said = said(child)?;
                println!("agent {running}: {verb} of {count} {name}: {all:.2?} of one CPU");
                ensure!(
                    status.success() && said.contains(expected) && said.contains(&count.to_string()),
                    "{said}"
                );
                ensure!(all < OF_A_LIST, "agent {running}: {verb} of {name}: {all:?}");
                let event = json(&guard, &["events", "--last", "1"])?[0].take();
                let details = &event["details"];
                ensure!(event["action"] == verb && details["count"] == *count, "{event}");
                ensure!(details["first"].as_array().is_some_and(|first| first.len() == 10), "{event}");
            }
            ensure!(blocked(&guard)?.is_empty() && guard.maps()?.blocks()?.is_empty(), "{name}");
        }
        if running {
            guard.end(Signal::SIGTERM)?;
        }
    }
    let events = run(&guard, &["events"])?;
    ensure!(
        events.contains("unblock 110041: 100.64.0.0/32, ") && events.contains(", …, done, by "),
        "{events}"
    );
    Ok(())
}

#[test]
fn an_agent_that_is_killed_half_way_leaves_all_or_nothing() -> Result<()> {
    const COUNT: usize = 50_000;
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let list = lists.addresses("addresses", COUNT)?;
    run(&guard, &["block", "10.1.1.1", "--reason", "before"])?;
    let wal = guard.state().with_extension("db-wal");
    let size = || fs::metadata(&wal).map_or(0, |wal| wal.len());
    for moment in ["in the kernel", "on the disk", "answered"] {
        let mut child = feed(&guard, "block", &list)?;
        let begun = size();
        match moment {
            "in the kernel" => {
                let maps = guard.maps()?;
                ensure!(wait::within(PATIENCE, || maps.blocks().is_ok_and(|blocks| blocks.len() > 1)));
            }
            "on the disk" => ensure!(wait::within(PATIENCE, || size() > begun)),
            _ => ensure!(child.wait()?.success()),
        }
        guard.kill()?;
        child.wait()?;
        guard.run()?;
        let in_kernel = guard.maps()?.blocks()?.len();
        ensure!(in_kernel == COUNT + 1, "{moment}: {in_kernel}");
        for _ in 0..2 {
            let listed = blocked(&guard)?.len();
            ensure!(listed == in_kernel, "{moment}: {listed} of {in_kernel}");
            // What was taken over from the kernel is in the ledger, too.
            reboot(&mut guard)?;
        }
        let whole = !guard.log().contains("could not be read");
        ensure!(whole && run(&guard, &["blocks"])?.contains("before"), "{moment}: {}", guard.log());
        let child = feed(&guard, "unblock", &list)?;
        ensure!(said(child)?.contains(&COUNT.to_string()));
    }
    Ok(())
}

#[test]
fn what_a_full_disk_did_not_take_is_written_when_there_is_room() -> Result<()> {
    const COUNT: usize = 200;
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let disk = guard.small_disk()?;
    guard.run()?;
    run(&guard, &["block", "10.1.1.1"])?;
    run(&guard, &["block", "10.1.1.2"])?;
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let mut missed = 0;
    for number in 0..COUNT {
        let (code, _, stderr) =
            guard.output(&["block", &format!("10.9.{number}.1"), "--reason", "a full disk"])?;
        ensure!(code == Some(0), "{stderr}");
        missed += usize::from(stderr.contains("lost at the next boot"));
    }
    ensure!(missed > 0, "the disk was not full");
    let (code, _, stderr) = guard.output(&["unblock", "10.1.1.1"])?;
    ensure!(code == Some(0) && stderr.contains("blocked again at the next boot"), "{stderr}");
    // Of those that were missed, one ends by itself.
    run(&guard, &["block", "10.1.1.3", "--for", "1s"])?;
    ensure!(!is_dropped(&guard, "10.1.1.1")? && is_dropped(&guard, "10.9.199.1")?, "the kernel has it");
    let expected = |guard: &Guard<'_>| -> Result<()> {
        let listed = blocked(guard)?;
        ensure!(listed.len() == COUNT + 1 && listed[0] == "10.1.1.2", "{listed:?}");
        ensure!(run(guard, &["blocks"])?.matches("a full disk").count() == COUNT);
        Ok(())
    };
    ensure!(wait::within(PATIENCE, || expected(&guard).is_ok()), "{:?}", blocked(&guard)?);
    ensure!(
        wait::within(PATIENCE, || problems(&guard).is_ok_and(|problems| problems.contains("ledger"))),
        "it is a problem"
    );
    fs::remove_file(&filler)?;
    ensure!(
        wait::within(PATIENCE, || problems(&guard).is_ok_and(|problems| problems == "[]")),
        "{}",
        problems(&guard)?
    );
    expected(&guard)?;
    reboot(&mut guard)?;
    expected(&guard)?;
    let events = run(&guard, &["events", "--last", "1000"])?;
    ensure!(events.matches("block 10.9.").count() == COUNT, "the audit log has all: {events}");
    ensure!(events.contains("unblock 10.1.1.1"), "{events}");
    Ok(())
}

#[test]
fn a_broken_file_is_put_aside_and_the_kernel_remembers() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    run(&guard, &["block", "10.1.1.1", "--for", "1h"])?;
    run(&guard, &["block", "10.2.0.0/16", "--scope", "services"])?;
    let expected = ["10.1.1.1", "10.2.0.0/16"];
    let mut files = 0;
    for (running, how) in [(false, "other"), (false, "cut"), (true, "other"), (true, "gone")] {
        if !running {
            guard.end(Signal::SIGTERM)?;
        }
        // A running agent has what it wrote last in the log beside the file, and needs no more of it for a while.
        let crash = running && how != "gone";
        let file = guard.state();
        match how {
            "other" => fs::write(&file, "this is no database. ".repeat(5000))?,
            "cut" => fs::OpenOptions::new().write(true).open(&file)?.set_len(4096 + 100)?,
            _ => fs::remove_file(&file)?,
        }
        if crash {
            run(&guard, &["block", "10.1.1.1", "--for", "2h"])?;
            guard.kill()?;
        }
        if !running || crash {
            guard.run()?;
        }
        let said = if how == "gone" { "is made anew" } else { "could not be read and is now" };
        ensure!(
            wait::within(PATIENCE, || guard.log().contains(said)),
            "{how}, running {running}: {}",
            guard.log()
        );
        ensure!(
            wait::within(PATIENCE, || blocked(&guard).is_ok_and(|blocked| blocked == expected)),
            "{how}, running {running}: {:?}: {}",
            blocked(&guard)?,
            guard.log()
        );
        ensure!(is_dropped(&guard, "10.1.1.1")?, "{how}, running {running}");
        let aside = fs::read_dir(guard.state_directory())?.filter_map(Result::ok);
        let aside = aside.filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.contains("broken") && !name.ends_with("-wal") && !name.ends_with("-shm")
        });
        let aside = aside.count();
        files += usize::from(how != "gone");
        ensure!(aside == files, "{how}, running {running}: {aside} put aside of {files}");
        reboot(&mut guard)?;
        ensure!(blocked(&guard)? == expected, "{how}, running {running}: the new file has them");
    }
    Ok(())
}

#[test]
fn a_place_that_may_not_be_written_is_used_as_soon_as_it_may() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    run(&guard, &["block", "10.1.1.1"])?;
    guard.end(Signal::SIGTERM)?;
    run(&guard, &["detach"])?;
    // Root without the right to overrule permissions, as the agent is, may not enter.
    let directory = guard.state_directory();
    chown(&directory, Some(65534), Some(65534))?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    guard.run()?;
    let (code, _, stderr) = guard.output(&["block", "10.1.1.2", "--reason", "not yours"])?;
    ensure!(
        code == Some(0) && stderr.contains("Permission denied") && stderr.contains("GUARD_STATE"),
        "{stderr}"
    );
    ensure!(blocked(&guard)? == ["10.1.1.2"] && is_dropped(&guard, "10.1.1.2")?);
    ensure!(problems(&guard)?.contains("Permission denied"), "{}", problems(&guard)?);
    chown(&directory, Some(0), Some(0))?;
    ensure!(
        wait::within(PATIENCE, || problems(&guard).is_ok_and(|problems| problems == "[]")),
        "{}",
        problems(&guard)?
    );
    ensure!(blocked(&guard)? == ["10.1.1.1", "10.1.1.2"], "what was in the file holds from now on");
    ensure!(is_dropped(&guard, "10.1.1.1")?);
    reboot(&mut guard)?;
    ensure!(run(&guard, &["blocks"])?.contains("not yours"));
    Ok(())
}

/// What is put before a program so that it reads another time of day from a file; the kernel's clock stays as it is.
fn fake_time(guard: &mut Guard<'_>, file: &Path) -> Result<()> {
    let output = Command::new("faketime").args(["-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]).output()?;
    let library = String::from_utf8(output.stdout).context("no path")?;
    ensure!(!library.trim().is_empty(), "faketime does not say where its library is");
    guard.set_environment("LD_PRELOAD", library.trim());
    guard.set_environment("FAKETIME_TIMESTAMP_FILE", &file.display().to_string());
    guard.set_environment("FAKETIME_NO_CACHE", "1");
    guard.set_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

#[test]
fn a_clock_that_is_set_moves_no_block() -> Result<()> {
    const DAY: i64 = 24 * 3600;
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let clock = lists.file("clock", ["+0".into()])?;
    let set = |seconds: i64| {
        let aside = clock.with_extension("new");
        fs::write(&aside, format!("{seconds:+}\n")).and_then(|()| fs::rename(&aside, &clock))
    };
    fake_time(&mut guard, &clock)?;
    guard.run()?;
    let nets = ["10.1.1.1", "10.2.0.0/16"];
    for net in nets {
        run(&guard, &["block", net, "--for", "1h", "--reason", "a clock"])?;
    }
    let left = |guard: &Guard<'_>, set: i64| -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() + set as f64;
        let list = json(guard, &["blocks"])?;
        let list = list.as_array().context("no list")?;
        ensure!(list.len() == nets.len(), "{list:?}");
        for block in list {
            let until = block["until"].as_f64().context("it ends")? / 1000.0;
            ensure!((3400.0..=3601.0).contains(&(until - now)), "{} s are left: {block}", until - now);
            ensure!(block["reason"] == "a clock", "{block}");
        }
        for source in ["10.1.1.1", "10.2.9.9"] {
            ensure!(is_dropped(guard, source)?, "{source}");
        }
        Ok(())
    };
    for (seconds, restart) in
        [(0, false), (DAY, false), (DAY, true), (-DAY, false), (-2 * DAY, true), (DAY, true)]
    {
        if restart {
            guard.end(Signal::SIGTERM)?;
        }
        set(seconds)?;
        if restart {
            guard.run()?;
        }
        left(&guard, seconds).with_context(|| format!("set by {seconds} s, restart {restart}"))?;
        // A short one ends on time, whatever the time of day: the housekeeping has been there.
        run(&guard, &["block", "10.3.3.3", "--for", "1s"])?;
        ensure!(wait::within(PATIENCE, || guard
            .maps()
            .is_ok_and(|maps| maps.blocks().is_ok_and(|blocks| blocks.len() == 2))));
        left(&guard, seconds).with_context(|| format!("set by {seconds} s, restart {restart}, later"))?;
    }
    // Nothing but the ledger knows, and the clock stands where it was last.
    reboot(&mut guard)?;
    left(&guard, DAY)
}
