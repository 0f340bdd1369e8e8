//! A disk that is full, a file that is broken, a place that may not be written.

use super::*;

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
    // The agent opens the file before it gives up the right to overrule permissions, and goes on to write it.
    ensure!(code == Some(0) && stderr.is_empty(), "{stderr}");
    ensure!(blocked(&guard)? == ["10.1.1.1", "10.1.1.2"], "{:?}: {}", blocked(&guard)?, guard.log());
    ensure!(is_dropped(&guard, "10.1.1.2")?);
    let is_told = || problems(&guard).is_ok_and(|problems| problems.contains("Permission denied"));
    ensure!(wait::within(PATIENCE, is_told), "{}", problems(&guard)?);
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
