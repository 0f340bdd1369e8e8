//! The port of metrics: no other user gets it from guard, neither between two servers nor between two agents.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::{Guard, binary};
use guard_tests::scene::{ALLOW, Scene};
use guard_tests::wait;
use nix::cmsg_space;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

const METRICS: &str = "127.0.0.1:9455";
const PATIENCE: Duration = Duration::from_secs(30);

fn policy(more: &str) -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n{more}"
    )
}

/// The processes that a process has started.
fn children(of: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

#[test]
fn a_server_of_metrics_that_dies_leaves_the_port_to_guard() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::start(&scene.server, &policy(""))?;
    let ends = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // Would have the port as soon as it is free.
        let other = scope.spawn(|| {
            scene.server.enter(|| {
                let is_taken = || TcpListener::bind(METRICS).is_ok();
                Ok(std::iter::repeat_with(is_taken)
                    .take_while(|_| !ends.load(Ordering::Relaxed))
                    .any(|taken| taken))
            })
        });
        let replaced = (|| -> Result<()> {
            for _ in 0..3 {
                let keeper = *children(guard.pid()?).first().context("no keeper")?;
                let server = *children(keeper.cast_unsigned()).first().context("no server")?;
                kill(Pid::from_raw(server), Signal::SIGKILL)?;
                let is_another =
                    || children(keeper.cast_unsigned()).first().is_some_and(|now| *now != server);
                ensure!(
                    wait::within(PATIENCE, || is_another() && guard.metrics().is_ok()),
                    "{}",
                    guard.log()
                );
            }
            Ok(())
        })();
        ends.store(true, Ordering::Relaxed);
        let taken = other.join().unwrap_or_else(|_| anyhow::bail!("the other user has failed"))?;
        ensure!(!taken, "another user got the port");
        replaced
    })
}

#[test]
fn a_port_that_no_user_without_privileges_can_take_is_served() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy("[metrics]\nlisten = \"127.0.0.1:945\"\n"))?;
    guard.run_at("127.0.0.1:945")
}

/// What systemd does for a unit with `FileDescriptorStoreMax=`: it takes descriptors with their names.
fn stored(socket: &UnixDatagram) -> Result<TcpListener> {
    socket.set_read_timeout(Some(PATIENCE))?;
    loop {
        let (mut bytes, mut space) = ([0; 1000], cmsg_space!([RawFd; 4]));
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
        let length = message.bytes;
        let descriptors: Vec<RawFd> = message
            .cmsgs()?
            .filter_map(
                |part| if let ControlMessageOwned::ScmRights(rights) = part { Some(rights) } else { None },
            )
            .flatten()
            .collect();
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if let [descriptor] = descriptors[..] {
            ensure!(text.contains("FDSTORE=1") && text.contains("FDNAME=guard-metrics"), "{text}");
            // SAFETY: the kernel has just made it for this process.
            #[expect(unsafe_code, reason = "descriptors come as numbers")]
            let listener = unsafe { OwnedFd::from_raw_fd(descriptor) };
            return Ok(listener.into());
        }
    }
}

/// `guard run` as systemd starts it, with what it has stored as descriptor 3.
fn as_service(guard: &Guard<'_>, notify: &str, stored: Option<RawFd>) -> Result<Command> {
    let mut command = guard.host().command("sh");
    command.args(["-c", "export LISTEN_PID=$$; exec \"$0\" run --config \"$1\""]).arg(binary()?);
    command.arg(guard.policy_file()).env("GUARD_PIN_PATH", guard.pins()).env("GUARD_SOCKET", guard.socket());
    command.env("GUARD_STATE", guard.state()).env("NOTIFY_SOCKET", notify).stdin(Stdio::null());
    command.stderr(File::create(guard.policy_file().with_file_name("service.log"))?);
    if let Some(descriptor) = stored {
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "guard-metrics");
        let hand_over = move || {
            // SAFETY: one system call, with numbers only.
            #[expect(unsafe_code, reason = "the library has it for its own descriptors only")]
            let done = unsafe { libc::dup2(descriptor, 3) };
            if done == 3 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: it calls nothing that is not safe between fork and exec.
        #[expect(unsafe_code, reason = "there is no other way to pass a descriptor under a number")]
        unsafe {
            command.pre_exec(hand_over);
        }
    }
    Ok(command)
}

#[test]
fn systemd_keeps_the_port_from_one_agent_to_the_next() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy(""))?;
    let path = guard.policy_file().with_file_name("notify");
    let (systemd, path) = (UnixDatagram::bind(&path)?, path.display().to_string());
    let mut agent = scene.server.start(&mut as_service(&guard, &path, None)?)?;
    let listener = stored(&systemd)?;
    ensure!(wait::within(PATIENCE, || guard.metrics().is_ok()));
    agent.end_by(Signal::SIGKILL, PATIENCE)?;
    let other = scene.server.enter(|| Ok(TcpListener::bind(METRICS).is_err()))?;
    ensure!(other, "another user got the port");
    let mut next = scene.server.start(&mut as_service(&guard, &path, Some(listener.as_raw_fd()))?)?;
    ensure!(wait::within(PATIENCE, || guard.metrics().is_ok()), "the next agent serves");
    ensure!(!guard.problems().contains("metrics"), "{}", guard.problems());
    next.end_by(Signal::SIGTERM, PATIENCE)?;
    Ok(())
}
