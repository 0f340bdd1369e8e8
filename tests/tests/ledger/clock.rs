//! A clock that is set.

use super::*;

/// What is put before a program so that it reads another time of day from a file; the kernel's clock stays as it is.
pub(super) fn fake_time(guard: &mut Guard<'_>, file: &Path) -> Result<()> {
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
