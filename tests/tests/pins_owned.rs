//! The pin directory: no other user can lock, fill or replace it, and `guard detach` removes nothing else.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::scene::{ALLOW, Scene};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

const NOBODY: u32 = 65534;

fn policy() -> String {
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [8000]\nallow = {ALLOW}\n"
    )
}

/// Runs work as an unprivileged user.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let change = || {
        // SAFETY: changes the user of this thread alone, which ends here; numbers only.
        #[expect(unsafe_code, reason = "the library would change the user of every thread")]
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        ensure!(changed == 0, "cannot become another user");
        Ok(work())
    };
    thread::scope(|scope| scope.spawn(change).join()).unwrap_or_else(|_| anyhow::bail!("a thread has failed"))
}

#[test]
fn another_user_holds_no_lock_that_guard_needs() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let pins = guard.pins();
    let places = [pins.clone(), pins.join("lock"), pins.join("links")];
    guard.kill()?;
    let locks: Vec<Option<Flock<File>>> = as_nobody(|| {
        let lock = |path: &Path| Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok();
        places.iter().map(|path| lock(path)).collect()
    })?;
    let (code, _, stderr) = guard.output(&["block", "10.90.0.1", "--for", "1h"])?;
    ensure!(code == Some(0), "without an agent: {stderr}");
    guard.run().context("a start")?;
    ensure!(locks.iter().all(Option::is_none), "another user can open what guard locks");
    Ok(())
}

#[test]
fn a_directory_that_another_user_has_made_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let guard = Guard::install(&scene.server, &policy())?;
    let pins = guard.pins();
    let file = guard.policy_file().display().to_string();
    for (uid, mode, said) in
        [(NOBODY, 0o700, "belongs to the user 65534"), (0, 0o777, "other users can write to it")]
    {
        fs::create_dir(&pins)?;
        fs::set_permissions(&pins, fs::Permissions::from_mode(mode))?;
        std::os::unix::fs::chown(&pins, Some(uid), Some(uid))?;
        for verb in [&["run", "--config", &file][..], &["block", "10.90.0.1"], &["detach"]] {
            let output = scene
                .server
                .command("timeout")
                .arg("20")
                .arg(guard_tests::guard::binary()?)
                .args(verb)
                .env("GUARD_PIN_PATH", &pins)
                .env("GUARD_SOCKET", guard.socket())
                .env("GUARD_STATE", guard.state())
                .output()?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(1) && stderr.contains(said) && stderr.contains("GUARD_PIN_PATH"),
                "{verb:?}: {stderr}"
            );
        }
        fs::remove_dir_all(&pins)?;
    }
    Ok(())
}

#[test]
fn detach_removes_nothing_but_pins_of_guard() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    guard.kill()?;
    // What somebody else has put there stays, and guard goes.
    let foreign = guard.pins().join("other");
    fs::create_dir(&foreign)?;
    let (code, _, stderr) = guard.output(&["detach"])?;
    ensure!(code == Some(1) && stderr.contains("is not of guard and stays"), "{stderr}");
    ensure!(foreign.exists(), "what is not of guard stays");
    ensure!(!guard.pins().join("links").exists(), "what is of guard goes");
    fs::remove_dir(&foreign)?;
    // A directory of files that looks like pins.
    let directory = guard.state_directory().with_file_name("precious");
    for name in ["links", "abi-1-1", "photographs"] {
        fs::create_dir_all(directory.join(name))?;
        fs::write(directory.join(name).join("file"), "precious")?;
    }
    guard.set_environment("GUARD_PIN_PATH", &directory.display().to_string());
    let (code, _, stderr) = guard.output(&["detach"])?;
    ensure!(code == Some(1) && stderr.contains("not on a BPF file system"), "{stderr}");
    for name in ["links", "abi-1-1", "photographs"] {
        ensure!(directory.join(name).join("file").exists(), "{name}");
    }
    Ok(())
}

#[test]
fn detach_waits_for_the_process_that_changes_the_pins() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    // It finds no agent there, though one runs.
    let socket = guard.socket().with_file_name("elsewhere.sock").display().to_string();
    let (code, _, stderr) = guard.output(&["--socket", &socket, "detach"])?;
    ensure!(code == Some(1) && stderr.contains("another process holds the pins"), "{stderr}");
    ensure!(guard.pins().join("links").exists() && guard.maps().is_ok(), "nothing was removed");
    guard.kill()?;
    let (code, _, stderr) = guard.output(&["--socket", &socket, "detach"])?;
    ensure!(code == Some(0), "{stderr}");
    thread::sleep(Duration::from_millis(1));
    ensure!(!guard.pins().exists(), "guard has left");
    Ok(())
}
