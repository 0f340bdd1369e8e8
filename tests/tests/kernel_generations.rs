//! Policies that replace each other: no packet sees half of one, the way back needs no agent, and state outlives them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guard_common::Action::{Drop as Dropped, Pass};
use guard_common::Reason::{Allowed, Blocked, NotAllowed};
use guard_common::abi::{Block, End};
use guard_tests::frame::Frame;
use guard_tests::kernel::{self, Kernel, NOW};
use guard_tests::raw::on_one_cpu;
use guard_tests::stale::{self, BPFFS};
use guard_tests::wait;
use guard_userspace::datapath::pins::Pins;
use guard_userspace::datapath::{Capacities, Maps, Options, boot_now};
use guard_userspace::{config, plan};

const CLIENT: &str = "10.0.0.1";

fn policy(service: &str, allow: &str) -> String {
    format!("[[service]]\nname = \"{service}\"\nports = [8000]\nallow = [\"{allow}\"]\n")
}

/// Pins with a name of their own, removed at the end.
struct Pinned {
    pins: Pins,
    _name: tempfile::TempDir,
}

impl Pinned {
    fn new() -> Result<Self> {
        let name = tempfile::Builder::new().prefix(&stale::prefix()).tempdir()?;
        let pins = Pins::new(Path::new(BPFFS).join(name.path().file_name().context("a name")?));
        Ok(Self { pins, _name: name })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.pins.remove_all();
    }
}

#[test]
fn no_packet_sees_half_a_policy() -> Result<()> {
    const CHANGES: usize = 100;
    let pinned = Pinned::new()?;
    let capacities = Capacities { blocks: 16, sources: 16, connections: 16 };
    let mut kernel =
        Kernel::with(&Options { capacities, pins: Some(pinned.pins.clone()), ..Options::default() })?;
    kernel.datapath.complete()?;
    let mut maps = Maps::open(&pinned.pins)?;
    // Under `a` the client is allowed, under `b` it is not; all else that could be counted is a mixture of the two.
    let policies = [policy("a", "10.0.0.0/8"), policy("b", "fd00::/8")];
    let publish = |maps: &mut Maps, number: usize| {
        let checked = config::parse(&policies[number % 2], "test.toml")?;
        let plan = plan::compile(&checked.policy, &maps.service_names()?)?;
        anyhow::Ok(maps.publish(&plan)?)
    };
    publish(&mut maps, 0)?;
    let frame = Frame::tcp(CLIENT, 8000).build();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let cpus = thread::available_parallelism()?.get();
        let running: Vec<_> = (0..cpus)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        kernel.datapath.time_frame(&frame, 10_000)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let published = (1..=CHANGES).try_for_each(|number| publish(&mut maps, number).map(drop));
        stop.store(true, Ordering::Relaxed);
        running.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))?;
        published
    })?;
    let names = maps.service_names()?;
    let ids: Vec<_> = names.values().copied().collect();
    let mut seen = [0, 0];
    for (verdict, counter) in maps.counters(&ids)?.into_values().filter(|(_, counter)| counter.packets > 0) {
        match (verdict.service, verdict.reason) {
            (service, Allowed) if service == names["a"] => seen[0] += counter.packets,
            (service, NotAllowed) if service == names["b"] => seen[1] += counter.packets,
            mixture => panic!("{mixture:?} is of neither policy: {counter:?}"),
        }
    }
    println!("judged by one policy {}, by the other {}", seen[0], seen[1]);
    assert!(seen.iter().all(|packets| *packets > 10_000), "both were in use: {seen:?}");
    Ok(())
}

#[test]
fn an_unconfirmed_policy_ends_by_itself_and_a_confirmed_one_stays() -> Result<()> {
    const TIME: Duration = Duration::from_millis(300);
    let mut kernel = Kernel::new(None)?;
    let frame = Frame::tcp(CLIENT, 8000).build();
    kernel.publish(&kernel::plan(&policy("a", "10.0.0.0/8"))?)?;
    let strict = kernel::plan(&policy("a", "fd00::/8"))?;
    kernel.datapath.maps_mut().publish_for(&strict, TIME)?;
    assert_eq!(kernel.datapath.run_frame(&frame)?, Dropped, "the new policy is live");
    let refused = kernel.datapath.maps_mut().publish(&strict).expect_err("a policy waits");
    assert!(refused.to_string().contains("guard confirm"), "{refused}");
    // Nobody does anything: only time goes by.
    let back = || kernel.datapath.run_frame(&frame).is_ok_and(|action| action == Pass);
    assert!(wait::within(TIME * 4, back), "the old policy is not back");
    assert!(!kernel.datapath.maps_mut().confirm()?, "it is too late to confirm");

    kernel.datapath.maps_mut().publish_for(&strict, TIME)?;
    assert!(kernel.datapath.maps_mut().confirm()?);
    let back = || kernel.datapath.run_frame(&frame).is_ok_and(|action| action == Pass);
    assert!(!wait::within(TIME * 2, back), "a confirmed policy went back");
    Ok(())
}

#[test]
fn blocks_and_what_a_source_has_used_outlive_a_policy() -> Result<()> {
    let limited = |burst: u32, more: &str| {
        format!(
            "[[service]]\nname = \"a\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\nlimits = \"x\"\n\
             [limits.x]\npackets_per_second = 1\npacket_burst = {burst}\n{more}"
        )
    };
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&kernel::plan(&limited(10, ""))?)?;
    let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
    kernel.block(&[("10.0.0.2/32".parse()?, forever), ("10.9.0.0/16".parse()?, forever)])?;
    let frame = Frame::tcp(CLIENT, 8000).build();
    for _ in 0..7 {
        assert_eq!(kernel.datapath.run_frame(&frame)?, Pass);
    }
    // Twice, so that both slots were written over.
    for burst in [11, 12] {
        let other = "\n[[service]]\nname = \"b\"\nports = [9000]\nallow = [\"::/0\"]\n";
        kernel.publish(&kernel::plan(&limited(burst, other))?)?;
    }
    let passed = (0..20).map(|_| kernel.datapath.run_frame(&frame)).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(
        passed.iter().filter(|action| **action == Pass).count(),
        12 - 7,
        "7 of the new burst are used"
    );
    for blocked in ["10.0.0.2", "10.9.1.1"] {
        assert_eq!(kernel.datapath.run_frame(&Frame::tcp(blocked, 8000).build())?, Dropped, "{blocked}");
    }
    Ok(())
}

/// Each CPU remembers whom it has let in. Whatever changes, the next packet is judged by.
#[test]
fn what_a_cpu_remembers_is_not_believed_after_a_change() -> Result<()> {
    on_one_cpu(|| {
        let mut kernel = Kernel::new(None)?;
        let frame = Frame::tcp(CLIENT, 8000).build();
        let allowed = |kernel: &mut Kernel| anyhow::Ok(kernel.judge(&frame)?.reason);
        let expect = |kernel: &mut Kernel, reason, what: &str| {
            for _ in 0..3 {
                assert_eq!(allowed(kernel)?, reason, "{what}");
            }
            anyhow::Ok(())
        };
        let plan = |allow: &str| kernel::plan(&policy("a", allow));
        let forever = Block { host_until: End::NONE, services_until: End::FOREVER, dropped: 0 };
        for round in 0..3 {
            kernel.publish(&plan("10.0.0.0/8")?)?;
            expect(&mut kernel, Allowed, "at first")?;
            for net in ["10.0.0.1/32", "10.0.0.0/24"] {
                let net = net.parse()?;
                kernel.block(&[(net, forever)])?;
                expect(&mut kernel, Blocked, "a block")?;
                assert!(kernel.datapath.maps_mut().remove_block(&net)?);
                expect(&mut kernel, Allowed, "its end")?;
            }
            let until = Block { services_until: End::not_before(boot_now()), ..forever };
            kernel.block(&[("10.0.0.1/32".parse()?, until)])?;
            expect(&mut kernel, Blocked, "a block with an end")?;
            assert!(wait::within(Duration::from_secs(5), || allowed(&mut kernel)
                .is_ok_and(|reason| reason == Allowed)));
            kernel.datapath.maps_mut().remove_block(&"10.0.0.1/32".parse()?)?;
            kernel.publish(&plan("10.0.0.0/31")?)?;
            expect(&mut kernel, Allowed, "another prefix")?;
            kernel.publish(&plan("fd00::/8")?)?;
            expect(&mut kernel, NotAllowed, "no prefix")?;
            // One that is not confirmed, and comes to its end by itself.
            kernel.datapath.maps_mut().publish_for(&plan("10.0.0.0/8")?, Duration::from_millis(50))?;
            expect(&mut kernel, Allowed, "for a while")?;
            assert!(
                wait::within(Duration::from_secs(5), || allowed(&mut kernel)
                    .is_ok_and(|reason| reason == NotAllowed)),
                "round {round}: what was let in by a policy that is over"
            );
        }
        Ok(())
    })
}
