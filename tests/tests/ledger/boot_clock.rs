//! A clock that is wrong after a boot, and right later.

use super::clock::fake_time;
use super::*;

const HOUR: u64 = 3600;

/// Seconds since the machine really booted: a boot that is pretended does not set the kernel's clock back.
fn uptime() -> Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    Ok(text.split('.').next().context("no seconds")?.parse()?)
}

/// Seconds until the only block ends, by the time of day that guard is shown; `None` while none is listed.
fn left(guard: &Guard<'_>, set: i64) -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() + set as f64;
    let list = json(guard, &["blocks"]).ok()?;
    Some(list.as_array()?.first()?["until"].as_f64()? / 1000.0 - now)
}

#[test]
fn a_clock_that_is_hours_ahead_after_a_boot_and_right_later_loses_no_block() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let clock = lists.file("clock", ["+0".into()])?;
    fake_time(&mut guard, &clock)?;
    guard.run()?;
    let lasts = uptime()? + 5 * HOUR;
    run(&guard, &["block", "10.1.1.1", "--for", &format!("{lasts}s"), "--reason", "a boot"])?;
    guard.end(Signal::SIGTERM)?;
    run(&guard, &["detach"])?;
    // The clock says that the block is long over.
    let synchronized = guard.pretend_boot("second-boot")?;
    let ahead = i64::try_from(lasts + 12 * HOUR)?;
    fs::write(&clock, format!("{ahead:+}\n"))?;
    guard.run()?;
    let kept = left(&guard, ahead).with_context(|| format!("no block is left: {}", guard.log()))?;
    ensure!((4.5 * HOUR as f64..5.5 * HOUR as f64).contains(&kept), "{kept} s are left: {}", guard.log());
    ensure!(is_dropped(&guard, "10.1.1.1")?, "the kernel holds to it");
    // Another agent of this boot sees it likewise.
    guard.end(Signal::SIGTERM)?;
    guard.run()?;
    ensure!(left(&guard, ahead).is_some() && is_dropped(&guard, "10.1.1.1")?, "{}", guard.log());
    // Then the time is right, and it is said so.
    let aside = clock.with_extension("new");
    fs::write(&aside, "+0\n").and_then(|()| fs::rename(&aside, &clock))?;
    fs::write(synchronized.join("synchronized"), "")?;
    let as_asked = |left: f64| (lasts as f64 - left).abs() < 0.5 * HOUR as f64;
    ensure!(
        wait::within(PATIENCE, || left(&guard, 0).is_some_and(as_asked)),
        "{:?}: {}",
        left(&guard, 0),
        guard.log()
    );
    ensure!(is_dropped(&guard, "10.1.1.1")?, "{}", guard.log());
    let at = guard.maps()?.block(&"10.1.1.1/32".parse()?)?.context("it is in the kernel")?.host_until;
    let until = at.nanoseconds() / 1_000_000_000;
    let expected = uptime()? + lasts;
    ensure!(until.abs_diff(expected) < HOUR / 2, "the kernel ends it at {until}, {expected} was asked for");
    Ok(())
}

#[test]
fn a_block_that_was_over_during_the_time_off_ends_once_the_clock_is_right() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::install(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let clock = lists.file("clock", ["+0".into()])?;
    fake_time(&mut guard, &clock)?;
    guard.run()?;
    let lasts = uptime()? + 5 * HOUR;
    run(&guard, &["block", "10.1.1.1", "--for", &format!("{lasts}s")])?;
    guard.end(Signal::SIGTERM)?;
    run(&guard, &["detach"])?;
    let synchronized = guard.pretend_boot("second-boot")?;
    let off = i64::try_from(lasts + HOUR)?;
    fs::write(&clock, format!("{off:+}\n"))?;
    guard.run()?;
    ensure!(is_dropped(&guard, "10.1.1.1")?, "it is in doubt: {}", guard.log());
    fs::write(synchronized.join("synchronized"), "")?;
    let is_over =
        || is_dropped(&guard, "10.1.1.1").is_ok_and(|dropped| !dropped) && left(&guard, off).is_none();
    ensure!(wait::within(PATIENCE, is_over), "{}", guard.log());
    Ok(())
}
