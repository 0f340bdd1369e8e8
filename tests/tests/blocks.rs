//! Blocks as a person sets them: what they stop, how long, who is spared, and what outlives agent, boot and disk.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::pause_free::Traffic;
use guard_tests::scene::{ALLOW, CLIENT, SERVER, Scene};
use guard_tests::wait;
use guard_userspace::blocks::Scope;
use guard_userspace::control::{BlockRequest, path};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n\
         [trusted]\nprefixes = [\"10.77.9.9\"]\n"
    )
}

/// Whether one of three comes back: a single one may get lost in the midst of other traffic.
fn ping(host: &Host) -> bool {
    host.output("ping", &["-c", "3", "-i", "0.2", "-W", "5", SERVER[0]]).is_ok_and(|(ok, _)| ok)
}

fn run(guard: &Guard<'_>, arguments: &[&str]) -> Result<String> {
    let (code, stdout, stderr) = guard.output(arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {stderr}");
    Ok(stdout)
}

/// The blocks as `guard blocks --json` lists them: networks, and seconds that are left (none: forever).
fn blocks(guard: &Guard<'_>) -> Result<Vec<(String, Option<f64>)>> {
    let list: Value = serde_json::from_str(&run(guard, &["blocks", "--json"])?)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as f64;
    let block = |block: &Value| {
        let net = block["net"].as_str().context("no net")?.trim_end_matches("/32").to_owned();
        Ok((net, block["until"].as_f64().map(|until| (until - now) / 1000.0)))
    };
    list.as_array().context("no list")?.iter().map(block).collect()
}

#[test]
fn a_block_takes_effect_at_once_and_ends_by_itself_or_by_command() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let traffic = Traffic::start(&scene, 8000)?;
    ensure!(traffic.client_goes_on(500) && ping(&scene.client));
    // Of the scope services: the guarded port, and nothing else.
    run(&guard, &["block", CLIENT[0], "--scope", "services", "--for", "6s", "--reason", "a test"])?;
    ensure!(!traffic.client_goes_on_within(200, Duration::from_millis(500)), "the guarded port is closed");
    ensure!(ping(&scene.client), "the host is not");
    ensure!(traffic.client_goes_on(200), "the block ends by itself");
    ensure!(
        wait::within(PATIENCE, || blocks(&guard).is_ok_and(|blocks| blocks.is_empty())),
        "and leaves the list"
    );
    // Of the scope host: everything.
    run(&guard, &["block", "10.77.1.0/24"])?;
    ensure!(!ping(&scene.client) && ping(&scene.stranger), "the network, and nobody else");
    let list: Value = serde_json::from_str(&run(&guard, &["blocks", "--json"])?)?;
    ensure!(list[0]["dropped"].as_u64() > Some(0) && list[0]["origin"] == "manual", "{list}");
    let (code, _, stderr) = guard.output(&["unblock", CLIENT[0]])?;
    ensure!(code == Some(3) && stderr.contains("10.77.1.0/24"), "{stderr}");
    run(&guard, &["unblock", "10.77.1.0/24"])?;
    ensure!(ping(&scene.client) && traffic.client_goes_on(200));
    let expired = || run(&guard, &["events"]).is_ok_and(|events| events.contains("expire"));
    ensure!(
        wait::within(PATIENCE, expired),
        "the end of the first one is noted: {}",
        run(&guard, &["events"])?
    );
    let events = run(&guard, &["events", "--source", CLIENT[0]])?;
    ensure!(events.contains("block 10.77.1.2/32, done, by root") && events.contains("a test"), "{events}");
    ensure!(events.contains("expire") && events.contains("unblock 10.77.1.0/24"), "{events}");
    Ok(())
}

#[test]
fn the_longer_of_two_times_holds() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    for (time, least) in [("1h", 3590.0), ("10m", 3590.0), ("2h", 7190.0)] {
        run(&guard, &["block", "10.1.1.1", "--for", time])?;
        let left = blocks(&guard)?[0].1.context("it ends")?;
        ensure!(left > least && left < least + 30.0, "after --for {time}: {left} s");
    }
    run(&guard, &["block", "10.1.1.1"])?;
    ensure!(blocks(&guard)? == [("10.1.1.1".to_owned(), None)], "forever is the longest");
    run(&guard, &["block", "10.1.1.1", "--for", "1h"])?;
    ensure!(blocks(&guard)? == [("10.1.1.1".to_owned(), None)]);
    Ok(())
}

#[test]
fn nobody_locks_themself_out() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.ip("route add default via 10.77.0.254")?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let cases = [
        (SERVER[0], "an address of this host"),
        ("10.77.0.0/24", "of this host"),
        ("10.77.0.254", "a gateway"),
        ("10.77.9.9", "trusted"),
        ("10.50.0.7", "where you are logged in from"),
        ("0.0.0.0/0", "wider than /8"),
        ("fc00::/7", "wider than /32"),
        ("10.1.1.1/24", "host bits"),
        ("nonsense", "not an IP address"),
    ];
    for running in [true, false] {
        for (net, why) in cases {
            if !running && net == "10.77.9.9" {
                // Only the agent knows the policy.
                continue;
            }
            let mut command = guard.command(&["block", net])?;
            let output = command.env("SSH_CONNECTION", "10.50.0.7 50000 10.77.0.1 22").output()?;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(1) && stderr.contains(why),
                "{net}, agent {running}: {stderr}"
            );
        }
        ensure!(blocks(&guard)?.is_empty(), "agent {running}");
        if running {
            guard.end(Signal::SIGTERM)?;
        }
    }
    guard.run()?;
    run(&guard, &["block", "10.77.9.9", "--force"])?;
    ensure!(blocks(&guard)?.len() == 1, "whoever insists is obeyed");
    Ok(())
}

#[test]
fn blocks_outlive_restart_and_reboot_with_the_time_that_is_left() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let asked = Instant::now();
    for (net, time) in [("10.1.1.1", "1h"), ("10.2.0.0/16", "1h"), ("10.3.3.3", "2s"), ("10.4.0.0/16", "2s")]
    {
        run(&guard, &["block", net, "--for", time])?;
    }
    run(&guard, &["block", "10.5.5.5"])?;
    let made = Instant::now();
    for reboot in [false, true] {
        guard.end(Signal::SIGTERM)?;
        if reboot {
            // What a reboot leaves: no pins.
            let (code, ..) = guard.output(&["detach"])?;
            ensure!(code == Some(0) && !guard.pins().exists());
        }
        // Two seconds, and up to the next full one.
        std::thread::sleep(Duration::from_secs(3).saturating_sub(made.elapsed()));
        guard.run()?;
        let latest = 3600.0 - made.elapsed().as_secs_f64();
        let mut left = blocks(&guard)?;
        let earliest = 3600.0 - asked.elapsed().as_secs_f64();
        left.sort_by(|a, b| a.0.cmp(&b.0));
        let nets: Vec<_> = left.iter().map(|(net, _)| net.as_str()).collect();
        ensure!(nets == ["10.1.1.1", "10.2.0.0/16", "10.5.5.5"], "reboot {reboot}: {left:?}");
        for (net, left) in &left[..2] {
            let left = left.context("it ends")?;
            // Ends are whole seconds.
            ensure!(
                (earliest - 1.0..latest + 2.0).contains(&left),
                "reboot {reboot}: {net} has {left} s left, {earliest} to {latest} are due"
            );
        }
        for (net, verdict) in [
            ("10.1.1.1", "drop"),
            ("10.2.9.9", "drop"),
            ("10.5.5.5", "drop"),
            ("10.3.3.3", "pass"),
            ("10.4.1.1", "pass"),
        ] {
            let explained: Value =
                serde_json::from_str(&run(&guard, &["explain", net, "--port", "22", "--json"])?)?;
            ensure!(explained[0]["verdict"] == verdict, "reboot {reboot}: {net}: {explained}");
        }
    }
    Ok(())
}

#[test]
fn without_an_agent_the_commands_work_and_the_next_agent_knows() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    run(&guard, &["block", "10.1.1.1"])?;
    guard.kill()?;
    run(&guard, &["block", CLIENT[0], "--for", "1h"])?;
    ensure!(!ping(&scene.client), "it holds without an agent");
    run(&guard, &["unblock", "10.1.1.1"])?;
    ensure!(blocks(&guard)?.len() == 1);
    guard.run()?;
    let left = blocks(&guard)?;
    ensure!(left.len() == 1 && left[0].0 == CLIENT[0], "{left:?}");
    ensure!(!ping(&scene.client));
    run(&guard, &["unblock", CLIENT[0]])?;
    ensure!(ping(&scene.client));
    Ok(())
}

/// Two that change the same tables would undo each other: what one counts, the other does not know.
#[test]
fn a_command_that_does_not_find_the_agent_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    run(&guard, &["block", CLIENT[0], "--scope", "host"])?;
    for arguments in [&["unblock", CLIENT[0]] as &[&str], &["block", "10.9.9.9"], &["blocks"], &["confirm"]] {
        let output = guard.command(arguments)?.env("GUARD_SOCKET", "/run/no-such.sock").output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && stderr.contains("GUARD_SOCKET"),
            "{arguments:?}: {stderr}"
        );
    }
    ensure!(!ping(&scene.client) && blocks(&guard)?.len() == 1);
    Ok(())
}

#[test]
fn lists_are_taken_whole_or_not_at_all() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let feed = |text: &str, verb: &str| -> Result<(Option<i32>, String)> {
        let mut command = guard.command(&[verb, "-"])?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ))
    };
    let (code, said) = feed("10.1.1.1\n10.2.2.2/8\n", "block")?;
    ensure!(code == Some(1) && said.contains("line 2") && blocks(&guard)?.is_empty(), "{said}");
    let (code, said) = feed(&format!("10.1.1.1\n{}\n", SERVER[0]), "block")?;
    ensure!(code == Some(1) && said.contains("of this host") && blocks(&guard)?.is_empty(), "{said}");
    let many: String = (0..100_000_u32)
        .map(|number| format!("100.{}.{}.{}\n", 64 + (number >> 16), number >> 8 & 255, number & 255))
        .collect();
    // What a list costs a CPU is measured in `ledger`.
    let (code, said) = feed(&many, "block")?;
    ensure!(code == Some(0) && said.starts_with("100000 are blocked"), "{said}");
    let (code, said) = feed(&many, "unblock")?;
    ensure!(code == Some(0) && said.starts_with("100000 are not"), "{said}");
    ensure!(blocks(&guard)?.is_empty());
    Ok(())
}

#[test]
fn a_list_for_which_the_kernel_has_no_room_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &(policy() + "[capacity]\nblocks = 1024\n"))?;
    run(&guard, &["block", "100.64.0.1", "--scope", "services"])?;
    run(&guard, &["block", "100.96.0.0/16", "--for", "1h"])?;
    for prefix in [false, true] {
        let net = |number: u32| {
            let text = if prefix {
                format!("100.{}.{}.0/24", 64 + (number >> 8), number & 255)
            } else {
                format!("100.64.{}.{}/32", number >> 8, number & 255)
            };
            IpNet::from_str(&text)
        };
        let nets = (0..2000).map(net).collect::<Result<_, _>>()?;
        let request = BlockRequest {
            nets,
            scope: Scope::Host,
            lasts: None,
            reason: None,
            caller: None,
            force: false,
            kill: false,
            skip_protected: false,
        };
        let refused =
            guard.client().post::<Value>(path::BLOCK, &request).err().context("it was taken")?.to_string();
        ensure!(refused.contains("1024") && refused.contains("[capacity]"), "{refused}");
        let left = blocks(&guard)?;
        ensure!(left.len() == 2, "prefixes {prefix}: {left:?}");
        for (source, verdict) in [("100.64.0.1", "pass"), ("100.64.3.3", "pass"), ("100.96.1.1", "drop")] {
            let explained: Value =
                serde_json::from_str(&run(&guard, &["explain", source, "--port", "22", "--json"])?)?;
            ensure!(explained[0]["verdict"] == verdict, "prefixes {prefix}: {source}: {explained}");
        }
    }
    Ok(())
}

#[test]
fn a_disk_that_is_full_lets_nobody_in() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let disk = guard.small_disk()?;
    guard.run()?;
    // All that is left of the disk.
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let mut refused = 0;
    for number in 0..200 {
        let (code, _, stderr) = guard.output(&["block", &format!("10.9.{number}.1")])?;
        ensure!(code == Some(0), "{stderr}");
        refused += usize::from(stderr.contains("lost at the next boot"));
    }
    ensure!(refused > 0, "the disk was not full");
    let explained = run(&guard, &["explain", "10.9.199.1", "--port", "22"])?;
    ensure!(explained.contains("DROP"), "the block holds: {explained}");
    fs::remove_file(&filler)?;
    let (code, _, stderr) = guard.output(&["block", "10.10.1.1"])?;
    ensure!(code == Some(0) && stderr.is_empty(), "there is room again: {stderr}");
    Ok(())
}

#[test]
fn a_block_takes_little_longer_than_a_question() -> Result<()> {
    const ROUNDS: usize = 20;
    /// One that waited for a look of the agent would take a hundred times as long.
    const MOST: u32 = 8;
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let median = |run: &dyn Fn(usize) -> Result<()>| -> Result<Duration> {
        let time = |number| {
            let start = Instant::now();
            run(number)?;
            Ok(start.elapsed())
        };
        let mut times = (0..ROUNDS).map(time).collect::<Result<Vec<_>>>()?;
        times.sort();
        Ok(times[ROUNDS / 2])
    };
    let asked = median(&|_| run(&guard, &["status"]).map(drop))?;
    let blocked = median(&|number| run(&guard, &["block", &format!("10.8.0.{number}")]).map(drop))?;
    println!("a whole `guard block`: {blocked:?}; a whole `guard status`: {asked:?}");
    ensure!(blocked < MOST * asked, "{blocked:?}; only to ask takes {asked:?}");
    // By the socket, as scripts do it.
    let request = BlockRequest {
        nets: vec!["10.8.1.1/32".parse()?],
        scope: Scope::Host,
        lasts: None,
        reason: None,
        caller: None,
        force: false,
        kill: false,
        skip_protected: false,
    };
    let start = Instant::now();
    guard.client().post::<Value>(path::BLOCK, &request)?;
    println!("over the socket: {:?}", start.elapsed());
    Ok(())
}

#[test]
fn no_gateway_of_any_route_is_blocked_by_mistake() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    for route in [
        "route add 10.200.0.0/16 nexthop via 10.77.9.1 nexthop via 10.77.9.2",
        "-6 route add fd00:200::/64 nexthop via fd00:77::9:1 nexthop via fd00:77::9:2",
        "route add 10.201.0.0/16 via 10.77.9.3 table 100",
        "nexthop add id 77 via 10.77.9.4 dev eth0",
        "route add 10.202.0.0/16 nhid 77",
        "route add 10.203.0.0/16 via inet6 fd00:77::9:5 dev eth0",
    ] {
        scene.server.ip(route)?;
    }
    for gateway in
        ["10.77.9.1", "10.77.9.2", "fd00:77::9:1", "fd00:77::9:2", "10.77.9.3", "10.77.9.4", "fd00:77::9:5"]
    {
        let (code, _, stderr) = guard.output(&["block", gateway])?;
        ensure!(
            code == Some(1) && stderr.contains("is a gateway of this host"),
            "{gateway}: {code:?} {stderr}"
        );
    }
    run(&guard, &["block", "10.77.9.8"])?;
    Ok(())
}
