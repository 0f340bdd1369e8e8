//! The limiter in the kernel: exact on all CPUs at once, and the limit of open connections.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guard_common::Address;
use guard_common::Reason::{self, Allowed, ByteRate, ConnectionRate, MaxConnections, PacketRate};
use guard_common::abi::SourceKey;
use guard_tests::cpu;
use guard_tests::frame::{ACK, Frame, SYN, Transport};
use guard_tests::kernel::{self, Kernel, NOW};
use guard_tests::wait;

const BURST: u64 = 100_000;
const RUNS: u32 = 200_000;

/// Frames that use up the burst of each limit that is raised.
const USES_UP: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn policy(limits: &str) -> String {
    format!(
        "[[service]]\nname = \"a\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\nlimits = \"x\"\n[limits.x]\n{limits}\n"
    )
}

/// Runs a frame [`RUNS`] times on each CPU, all at once. Returns how many runs that were.
fn run_on_all_cpus(kernel: &Kernel, frame: &[u8]) -> Result<u64> {
    let cpus = thread::available_parallelism()?.get();
    let run = |cpu| {
        cpu::stay_on(cpu)?;
        kernel.datapath.time_frame(frame, RUNS)?;
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || run(cpu))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })?;
    Ok(cpus as u64 * u64::from(RUNS))
}

#[test]
fn all_cpus_at_once_get_exactly_the_burst() -> Result<()> {
    let frame = Frame::tcp("10.0.0.1", 8000).build();
    let bytes = frame.len() as u64 * BURST;
    // The clock stands still, so nothing comes back while the CPUs race. A byte takes whole ticks at this rate: nothing is rounded.
    let cases = [
        (format!("packets_per_second = 1000\npacket_burst = {BURST}"), PacketRate),
        (format!("bytes_per_second = 1000000\nbyte_burst = {bytes}"), ByteRate),
        (format!("connections_per_second = 1000\nconnection_burst = {BURST}"), ConnectionRate),
    ];
    for (limits, over) in cases {
        let mut kernel = Kernel::new(Some(NOW))?;
        kernel.publish(&kernel::plan(&policy(&limits))?)?;
        let offered = run_on_all_cpus(&kernel, &frame)?;
        let counted = kernel.counters()?;
        let count = |reason: Reason| -> u64 {
            let of_reason = counted.values().filter(|(verdict, _)| verdict.reason == reason);
            of_reason.map(|(_, counter)| counter.packets).sum()
        };
        assert_eq!(count(Allowed), BURST, "{limits}");
        assert_eq!(count(over), offered - BURST, "{limits}");
    }
    Ok(())
}

/// Races between CPUs cost no packet.
#[test]
fn all_cpus_at_once_lose_nothing_within_their_limit() -> Result<()> {
    let frame = Frame::tcp("10.0.0.1", 8000).build();
    let cpus = thread::available_parallelism()?.get() as u64;
    let burst = cpus * u64::from(RUNS);
    let limits = format!(
        "packets_per_second = 1000\npacket_burst = {burst}\nbytes_per_second = 1000000\nbyte_burst = {}\n\
         connections_per_second = 1000\nconnection_burst = {burst}",
        burst * frame.len() as u64
    );
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&kernel::plan(&policy(&limits))?)?;
    let offered = run_on_all_cpus(&kernel, &frame)?;
    let counted = kernel.counters()?;
    let allowed = counted.values().filter(|(verdict, _)| verdict.reason == Allowed);
    assert_eq!(allowed.map(|(_, counter)| counter.packets).sum::<u64>(), offered);
    Ok(())
}

/// What a limit held against a source ends with that limit.
#[test]
fn a_raised_limit_is_there_at_once() -> Result<()> {
    let frame = Frame::tcp("10.0.0.1", 8000).build();
    let cases = [
        ("packets", "packets_per_second = 1\npacket_burst = 1000", "packets_per_second = 100000", PacketRate),
        (
            "connections",
            "connections_per_second = 1\nconnection_burst = 1000",
            "connections_per_second = 100000",
            ConnectionRate,
        ),
        ("bytes", "bytes_per_second = 1024\nbyte_burst = 655360", "bytes_per_second = 104857600", ByteRate),
    ];
    for (name, before, after, over) in cases {
        let mut kernel = Kernel::new(None)?;
        kernel.publish(&kernel::plan(&policy(before))?)?;
        kernel.datapath.time_frame(&frame, USES_UP)?;
        let refused = kernel.counters()?.values().any(|(verdict, _)| verdict.reason == over);
        assert!(refused, "{name}: the limit is not used up");
        kernel.publish(&kernel::plan(&policy(after))?)?;
        // The old limit held minutes against it; the new one gives a packet back in a moment.
        let mut last = None;
        let raised = wait::within(PATIENCE, || {
            last = Some(kernel.judge(&frame));
            last.as_ref()
                .is_some_and(|verdict| verdict.as_ref().is_ok_and(|verdict| verdict.reason == Allowed))
        });
        assert!(raised, "{name}: at last {last:?}");
    }
    Ok(())
}

#[test]
fn a_source_opens_no_connection_past_its_limit() -> Result<()> {
    let plan = kernel::plan(
        "[[service]]\nname = \"a\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = [\"10.0.0.0/8\", \"fd00::/16\"]\n\
         limits = \"x\"\n[limits.x]\nmax_connections = 2\n",
    )?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let mut host = kernel::host(&plan, &[]);
    let service = &plan.services[0];
    let open = [("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("fd00::1", 2)].map(|(source, open)| {
        let source: std::net::IpAddr = source.parse().expect("an address");
        (SourceKey::new(service.id, &service.entry, Address::from(source)), open)
    });
    kernel.datapath.maps_mut().write_connections(&open)?;
    open.iter().for_each(|(source, open)| host.set_connections(*source, *open));
    let segment = |source, flags| Frame::new(source, Transport::Tcp { source_port: 1, port: 8000, flags });
    let cases = [
        ("nothing is known of it", segment("10.0.0.9", SYN), Allowed),
        ("one below", segment("10.0.0.1", SYN), Allowed),
        ("at the limit", segment("10.0.0.2", SYN), MaxConnections),
        ("above it", segment("10.0.0.3", SYN), MaxConnections),
        ("an open connection goes on", segment("10.0.0.3", ACK), Allowed),
        ("an answer opens none", segment("10.0.0.3", SYN | ACK), Allowed),
        ("UDP opens none", Frame::udp("10.0.0.3", 8000), Allowed),
        ("the same /64", segment("fd00::2", SYN), MaxConnections),
        ("another /64", segment("fd00:0:0:1::1", SYN), Allowed),
    ];
    for (name, frame, reason) in cases {
        let frame = frame.build();
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!(here.reason, reason, "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    Ok(())
}
