//! Lists from standard input: one change each.

use super::*;

#[test]
fn a_long_list_is_one_change_and_costs_little() -> Result<()> {
    let scene = Scene::new()?;
    let mut guard = Guard::start(&scene.server, &policy())?;
    let lists = Lists::new()?;
    let both = (0..ADDRESSES).map(|number| address(number).to_string()).chain(nested());
    let cases = [
        ("of the addresses, a tenth", lists.addresses("tenth", ADDRESSES / 10)?, ADDRESSES / 10),
        ("addresses", lists.addresses("addresses", ADDRESSES)?, ADDRESSES),
        ("prefixes in prefixes", lists.file("nested", nested())?, nested().count()),
        ("both", lists.file("both", both)?, ADDRESSES + nested().count()),
    ];
    for running in [true, false] {
        // What each step costs with the first list.
        let mut tenth = Vec::new();
        for (name, list, count) in &cases {
            let steps = [
                ("block", "are blocked until"),
                ("block", "0 are blocked until"),
                ("unblock", "are not blocked"),
            ];
            for (step, (verb, expected)) in steps.into_iter().enumerate() {
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
                let least = *tenth.get(step).unwrap_or(&all);
                tenth.push(all);
                ensure!(all < OVER_A_TENTH * least, "agent {running}: {verb} of {name}: {all:?}, {least:?}");
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
