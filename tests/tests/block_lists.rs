//! Lists to block, as feeds write them and as attackers of the one who blocks would.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use guard_userspace::blocks::Scope;
use guard_userspace::control::{BlockAnswer, BlockRequest, path};

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

/// Runs a command with this on its standard input.
fn feed(guard: &Guard<'_>, arguments: &[&str], input: &[u8]) -> Result<(Option<i32>, String, String)> {
    let mut command = guard.command(arguments)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // One that fails early does not read all of it.
    let _ = child.stdin.take().context("no way in")?.write_all(input);
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

fn blocked(guard: &Guard<'_>) -> Result<String> {
    let (code, stdout, stderr) = guard.output(&["blocks"])?;
    ensure!(code == Some(0), "{stderr}");
    Ok(stdout)
}

#[test]
fn an_empty_list_is_an_error_unless_it_is_meant() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    for agent in [true, false] {
        for input in [&b""[..], b"# a dead feed\n;\n\n"] {
            for verb in ["block", "unblock"] {
                let (code, _, stderr) = feed(&guard, &[verb, "-"], input)?;
                ensure!(
                    code == Some(1) && stderr.contains("--allow-empty"),
                    "agent {agent}, {verb}: {code:?} {stderr}"
                );
                let (code, _, stderr) = feed(&guard, &[verb, "-", "--allow-empty"], input)?;
                ensure!(code == Some(0), "agent {agent}, {verb}: {stderr}");
            }
        }
        if agent {
            guard.kill()?;
        }
    }
    Ok(())
}

#[test]
fn lists_are_read_as_feeds_write_them() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let list = b"\xef\xbb\xbf; Spamhaus DROP\r\n198.51.100.0/24 ; SBL1\r\n# others\r\n203.0.113.1, 203.0.113.2 203.0.113.3\r\n";
    let (code, stdout, stderr) = feed(&guard, &["block", "-", "--for", "1d"], list)?;
    ensure!(code == Some(0) && stdout.contains("4 are blocked"), "{stdout}{stderr}");
    let (code, _, stderr) = feed(&guard, &["block", "-"], b"203.0.113.4\n\n010.0.0.1\nnonsense\n")?;
    ensure!(code == Some(1) && stderr.contains("line 3: ") && stderr.contains("line 4: "), "{stderr}");
    ensure!(!blocked(&guard)?.contains("203.0.113.4"), "nothing of it was used");
    let (code, stdout, stderr) = feed(&guard, &["unblock", "-"], list)?;
    ensure!(code == Some(0) && stdout.contains("4 are not blocked"), "{stdout}{stderr}");
    Ok(())
}

#[test]
fn protected_ones_of_a_list_are_left_out_and_named() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    // As FireHOL's level 1: the host's own network and loopback are in it.
    let list = b"0.0.0.0/8\n10.0.0.0/8\n127.0.0.0/8\n224.0.0.0/3\n203.0.113.0/24\n";
    let (code, _, stderr) = feed(&guard, &["block", "-"], list)?;
    ensure!(code == Some(1) && stderr.contains("--skip-protected"), "{stderr}");
    ensure!(blocked(&guard)?.contains("nothing is blocked"));
    for agent in [true, false] {
        let (code, stdout, stderr) = feed(&guard, &["block", "-", "--skip-protected", "--for", "1h"], list)?;
        ensure!(code == Some(0), "agent {agent}: {stderr}");
        for out in ["10.0.0.0/8 was left out: ", "127.0.0.0/8 was left out: ", "224.0.0.0/3 was left out: "] {
            ensure!(stdout.contains(out), "agent {agent}: {stdout}");
        }
        let blocks = blocked(&guard)?;
        ensure!(blocks.contains("203.0.113.0/24") && blocks.contains("0.0.0.0/8"), "{blocks}");
        ensure!(!blocks.contains("10.0.0.0/8") && !blocks.contains("127.0.0.0/8"), "{blocks}");
        let (_, stdout, _) = feed(&guard, &["block", "-", "--skip-protected", "--json"], list)?;
        let answer: BlockAnswer = serde_json::from_str(&stdout)?;
        ensure!(answer.skipped.len() == 3, "{answer:?}");
        if agent {
            guard.output(&["unblock", "203.0.113.0/24"])?;
            guard.kill()?;
        }
    }
    Ok(())
}

fn request(net: &str) -> Result<BlockRequest> {
    Ok(BlockRequest {
        nets: vec![net.parse()?],
        scope: Scope::Host,
        lasts: None,
        reason: None,
        caller: None,
        force: false,
        kill: false,
        skip_protected: false,
    })
}

#[test]
fn the_control_socket_takes_no_mapped_prefix_and_no_endless_time() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    for force in [false, true] {
        let mapped = BlockRequest { force, ..request("::ffff:10.0.0.0/104")? };
        let answer = guard.client().post::<BlockAnswer>(path::BLOCK, &mapped);
        let said = answer.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains("write 10.0.0.0/8"), "force {force}: {said}");
    }
    let endless = BlockRequest { lasts: Some(u64::MAX), ..request("203.0.113.1/32")? };
    let answer = guard.client().post::<BlockAnswer>(path::BLOCK, &endless);
    ensure!(answer.is_err_and(|error| error.to_string().contains("ten years")));
    for verb in [
        &["block", "203.0.113.1", "--for", "9000y"][..],
        &["debug", "drops", "--for", "9000y"],
        &["recommend", "--for", "9000y"],
    ] {
        let (code, _, stderr) = guard.output(verb)?;
        ensure!(code == Some(2) && stderr.contains("ten years"), "{verb:?}: {code:?} {stderr}");
    }
    ensure!(blocked(&guard)?.contains("nothing is blocked"));
    Ok(())
}

#[test]
fn a_reason_controls_no_terminal_and_forges_no_line() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy())?;
    let reason = "scans us\x1b]0;owned\x07\nWARN guard: forged \u{202e}line";
    let (code, stdout, stderr) = guard.output(&["block", "203.0.113.1", "--reason", reason])?;
    ensure!(code == Some(0), "{stderr}");
    let mut all = vec![stdout, stderr, guard.log()];
    for verb in
        [&["blocks"][..], &["blocks", "--json"], &["events", "--actions"], &["explain", "203.0.113.1"]]
    {
        let (_, stdout, stderr) = guard.output(verb)?;
        all.extend([stdout, stderr]);
    }
    // A file name goes into the log and the status.
    let odd = guard.policy_file().with_file_name("odd\x1b[2J\nERROR forged.toml");
    std::fs::write(&odd, policy())?;
    let (code, stdout, stderr) = guard.output(&["apply", &odd.display().to_string()])?;
    ensure!(code == Some(0), "{stderr}");
    let (_, status, _) = guard.output(&["status"])?;
    all.extend([stdout, stderr, status, guard.log()]);
    std::fs::write(&odd, "nonsense")?;
    let (code, stdout, stderr) = guard.output(&["check", &odd.display().to_string()])?;
    ensure!(code == Some(1));
    all.extend([stdout, stderr]);
    for text in &all {
        ensure!(!text.contains('\x1b') && !text.contains('\x07') && !text.contains('\u{202e}'), "{text:?}");
        let forged = text.lines().any(|line| {
            line.trim_start().starts_with("WARN guard: forged")
                || line.trim_start().starts_with("ERROR forged")
        });
        ensure!(!forged, "{text}");
    }
    ensure!(all.iter().any(|text| text.contains("scans us\\u{1b}]0;owned")), "it is shown as it is");
    Ok(())
}
