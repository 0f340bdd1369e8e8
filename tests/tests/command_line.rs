//! The command line as a user meets it: bad input, missing privileges, signals, the way out.

use std::process::Stdio;

use anyhow::{Context, Result};
use guard_tests::frame::{CUSTOMER_TAG, Frame};
use guard_tests::guard::{Guard, binary};
use guard_tests::net::Host;
use guard_tests::scene::{ALLOW, Scene};
use nix::sys::signal::Signal;

fn good() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

fn is_attached(host: &Host) -> Result<bool> {
    let (_, text) = host.output("ip", &["-details", "link", "show", "dev", "eth0"])?;
    Ok(text.contains("xdp"))
}

#[test]
fn bad_policies_are_refused_with_their_place_and_attach_nothing() -> Result<()> {
    let scene = Scene::new()?;
    // A name, what is put in place of what, where the error is, and what it says.
    let cases = [
        ("wrong CIDR", ("\"10.77.1.0/24\"", "\"10.77.1.0/33\""), ":6:10", "10.77.1.0/33"),
        ("host bits", ("\"10.77.1.0/24\"", "\"10.77.1.1/24\""), ":6:10", "10.77.1.0/24"),
        ("unknown key", ("ports =", "port ="), ":5:1", "ports"),
        ("unknown interface", ("\"eth0\"", "\"eth7\""), ":2:15", "eth7"),
        ("no allow", ("allow =", "deny ="), ":3:", "allow"),
        ("port 0", ("[8000]", "[0]"), ":5:10", "port"),
    ];
    for (name, (from, to), place, says) in cases {
        let policy = good().replace(from, to);
        assert_ne!(policy, good(), "case {name:?} changes the policy");
        let guard = Guard::install(&scene.server, &policy)?;
        let file = guard.policy_file().display().to_string();
        let (code, _, stderr) = guard.output(&["run", "--config", &file])?;
        assert_eq!(code, Some(1), "case {name:?}: {stderr}");
        assert!(
            stderr.contains(&format!("{file}{place}")),
            "case {name:?} names the place {place}: {stderr}"
        );
        assert!(stderr.contains(says), "case {name:?} says {says:?}: {stderr}");
        let errors = stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert_eq!(errors, 1, "case {name:?} is one error: {stderr}");
        assert!(!is_attached(&scene.server)?, "case {name:?} attaches nothing");
        assert!(!guard.pins().exists(), "case {name:?} pins nothing");
    }
    Ok(())
}

#[test]
fn without_privileges_one_sentence_names_the_capability() -> Result<()> {
    let scene = Scene::new()?;
    // The binary of a test may lie where only root can look.
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("guard");
    std::fs::copy(binary()?, &copy)?;
    let command = format!(
        "chmod 755 {0} {1} && exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all {1} run -i eth0 -p 8000 -a 10.0.0.0/8",
        directory.path().display(),
        copy.display()
    );
    let (ok, text) = scene.server.output("sh", &["-c", &command])?;
    assert!(!ok);
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    assert!(text.contains("CAP_BPF") && text.contains("CAP_NET_ADMIN"), "{text}");
    Ok(())
}

/// The exit status of an agent that `guard detach` has ended; the unit names it, too.
const DETACHED: i32 = 4;

#[test]
fn signals_end_the_agent_and_detach_ends_guard() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &good())?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        guard.end(signal)?;
        assert!(is_attached(&scene.server)?, "the kernel goes on after {signal}");
        let (code, stdout, _) = guard.output(&["status"])?;
        assert_eq!(code, Some(0));
        assert!(stdout.contains("NOT RUNNING") && stdout.contains("eth0"), "{stdout}");
        guard.run().context("the next agent takes over")?;
        assert!(guard.log().contains("took over eth0"), "{}", guard.log());
    }
    let (code, stdout, stderr) = guard.output(&["detach"])?;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(guard.ended()?, Some(DETACHED), "the agent has ended when the command returns");
    assert!(!is_attached(&scene.server)?, "nothing is attached after detach");
    assert!(!guard.pins().exists(), "nothing is pinned after detach");
    let (code, _, stderr) = guard.output(&["status"])?;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("guard run"), "status says what to do: {stderr}");
    let (code, ..) = guard.output(&["detach"])?;
    assert_eq!(code, Some(0), "to detach what is gone is no error");
    guard.run().context("an agent starts right after a detach")?;
    Ok(())
}

#[test]
fn on_exit_detach_leaves_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let policy = good().replace("[attach]", "[attach]\non_exit = \"detach\"");
    let mut guard = Guard::start(&scene.server, &policy)?;
    guard.end(Signal::SIGTERM)?;
    assert!(!is_attached(&scene.server)?);
    assert!(!guard.pins().exists());
    Ok(())
}

#[test]
fn a_second_agent_is_told_of_the_first() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &good())?;
    let file = guard.policy_file().display().to_string();
    let (code, _, stderr) = guard.output(&["run", "--config", &file])?;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another guard runs"), "{stderr}");
    assert!(is_attached(&scene.server)?, "the first one is not disturbed");
    Ok(())
}

#[test]
fn a_foreign_program_is_not_replaced() -> Result<()> {
    let scene = Scene::new()?;
    let first = Guard::start(&scene.server, &good())?;
    let second = Guard::install(&scene.server, &good())?;
    let file = second.policy_file().display().to_string();
    let (code, _, stderr) = second.output(&["run", "--config", &file, "--metrics", "127.0.0.1:9456"])?;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("eth0") && stderr.contains("another XDP program"), "{stderr}");
    assert!(!second.pins().exists(), "what was begun is taken back");
    assert!(first.counts().is_ok());
    Ok(())
}

#[test]
fn check_needs_no_privileges_and_prints_the_policy_in_full() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("guard.toml");
    std::fs::write(&file, good())?;
    let file = file.display().to_string();
    let output = alone(&["check", &file])?;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("on_exit = \"keep\"") && text.contains("10.77.1.0/24"), "{text}");
    let output = alone(&["check", &file, "--json"])?;
    let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(document["ok"], true);
    assert_eq!(alone(&["check", "/no/such/file"])?.status.code(), Some(1));
    assert_eq!(alone(&["no-such-command"])?.status.code(), Some(2));
    Ok(())
}

#[test]
fn an_interface_of_a_flag_is_named_by_its_flag() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &good())?;
    let file = guard.policy_file().display().to_string();
    let (code, _, stderr) = guard.output(&["run", "--config", &file, "--interface", "eth7"])?;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--interface eth7: ") && !stderr.contains(&file), "{stderr}");
    assert!(!is_attached(&scene.server)?);
    Ok(())
}

#[test]
fn explain_says_the_same_with_and_without_an_agent() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &good())?;
    let cases = [
        (&["explain", "10.77.1.2"][..], "pass", "allowed"),
        (&["explain", "10.77.66.3"], "drop", "not_allowed"),
        (&["explain", "fd00:77::66:3", "--port", "8000"], "drop", "not_allowed"),
        (&["explain", "10.77.66.3", "--port", "22"], "pass", "unguarded"),
        (&["explain", "10.77.66.3", "--port", "8000", "--protocol", "udp"], "pass", "unguarded"),
    ];
    for running in [true, false] {
        if !running {
            guard.end(Signal::SIGTERM)?;
        }
        for (arguments, verdict, reason) in cases {
            let (code, stdout, stderr) = guard.output(&[arguments, &["--json"]].concat())?;
            assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
            let document: serde_json::Value = serde_json::from_str(&stdout)?;
            assert_eq!(document[0]["verdict"], verdict, "{arguments:?}, agent {running}: {stdout}");
            assert_eq!(document[0]["reason"], reason, "{arguments:?}, agent {running}: {stdout}");
        }
    }
    Ok(())
}

#[test]
fn simulate_counts_a_real_capture_as_the_kernel_counts_its_packets() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (policy, capture) = (directory.path().join("guard.toml"), directory.path().join("day.pcap"));
    std::fs::write(&policy, good())?;
    let frames = [
        Frame::tcp("10.77.1.2", 8000).build(),
        Frame::tcp("10.77.66.3", 8000).build(),
        Frame { vlan: vec![(CUSTOMER_TAG, 0)], ..Frame::tcp("fd00:77::66:3", 8000) }.build(),
        Frame::tcp("10.77.66.3", 22).build(),
    ];
    std::fs::write(&capture, pcap(&frames))?;
    let (policy, capture) = (policy.display().to_string(), capture.display().to_string());
    let output = alone(&["simulate", &capture, "--config", &policy, "--json"])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let verdicts = document["verdicts"].as_array().context("no verdicts")?;
    let count =
        |reason: &str| verdicts.iter().find(|line| line["reason"] == reason).map(|line| &line["packets"]);
    assert_eq!(count("allowed").context("allowed")?, 1);
    assert_eq!(count("not_allowed").context("not_allowed")?, 2);
    assert_eq!(count("unguarded").context("unguarded")?, 1);
    assert_eq!(document["sources"][0]["source"], "10.77.66.3", "the one with the most dropped is first");

    // A capture that ends in the middle of a packet, and one that is none.
    std::fs::write(directory.path().join("day.pcap"), &pcap(&frames)[..100])?;
    let output = alone(&["simulate", &capture, "--config", &policy])?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("packet 2"), "{stderr}");
    let output = alone(&["simulate", &policy, "--config", &policy])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pcap"));
    Ok(())
}

/// A capture in the oldest format: microseconds, Ethernet.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut file = words(&[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65535, 1]);
    for (second, frame) in frames.iter().enumerate() {
        file.extend(words(&[second as u32, 0, frame.len() as u32, frame.len() as u32]));
        file.extend(frame);
    }
    file
}

/// Guard as somebody without privileges runs it.
fn alone(arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = std::process::Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null()).output().context("cannot run guard")
}

#[test]
fn shells_and_man_know_the_commands() -> Result<()> {
    let guard = binary()?;
    for shell in ["bash", "zsh", "fish"] {
        let output = std::process::Command::new(&guard).args(["completions", shell]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("recommend") && text.contains("unblock"), "{shell}");
    }
    let page = std::process::Command::new(&guard).args(["man", "block"]).output()?;
    assert!(page.status.success() && String::from_utf8_lossy(&page.stdout).contains(".TH guard"));
    let other = std::process::Command::new(&guard).args(["man", "nothing"]).output()?;
    assert_eq!(other.status.code(), Some(2));
    Ok(())
}
