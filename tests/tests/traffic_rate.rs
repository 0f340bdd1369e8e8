//! The rates of a source, in real traffic: what gets through is rate × time + burst, whatever is offered and however many CPUs see it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guard_common::abi::ServiceId;
use guard_common::{Action, Reason, Verdict};
use guard_tests::frame::{Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::raw::flood;
use guard_tests::scene::{ALLOW, CLIENT, Scene, to_server};
use guard_tests::statistics::{self, DATAGRAMS, SEGMENTS};
use guard_userspace::datapath::Maps;
use guard_userspace::datapath::pins::Pins;

const PORT: u16 = 8000;
/// Packets a second, as the limit of each case comes to, and as many more at once.
const RATE: u64 = 2000;
const BURST: u64 = 1000;
/// Ten times the limit is offered; the count is taken at `TIME`, while the flood goes on.
const OFFERED: u64 = 10 * RATE;
const TIME: Duration = Duration::from_secs(10);
const FLOOD: Duration = Duration::from_millis(10_500);
const TOLERANCE: f64 = 0.001;

#[test]
fn packets() -> Result<()> {
    let transport = |flow| Transport::Udp { source_port: 20_000 + flow, port: PORT };
    let limits = format!("packets_per_second = {RATE}\npacket_burst = {BURST}");
    the_limit_and_the_burst_get_through(&limits, Reason::PacketRate, transport, 0)
}

#[test]
fn bytes() -> Result<()> {
    // 42 bytes of headers before the payload.
    const PAYLOAD: usize = 958;
    let transport = |flow| Transport::Udp { source_port: 20_000 + flow, port: PORT };
    let limits = format!("bytes_per_second = {}\nbyte_burst = {}", 1000 * RATE, 1000 * BURST);
    the_limit_and_the_burst_get_through(&limits, Reason::ByteRate, transport, PAYLOAD)
}

#[test]
fn connections() -> Result<()> {
    let transport = |flow| Transport::Tcp { source_port: 20_000 + flow, port: PORT, flags: SYN };
    let limits = format!("connections_per_second = {RATE}\nconnection_burst = {BURST}");
    the_limit_and_the_burst_get_through(&limits, Reason::ConnectionRate, transport, 0)
}

fn the_limit_and_the_burst_get_through(
    limits: &str,
    over: Reason,
    transport: impl Fn(u16) -> Transport,
    payload: usize,
) -> Result<()> {
    let scene = Scene::new()?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n\
         limits = \"client\"\n[limits.client]\n{limits}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let maps = Maps::open(&Pins::new(guard.pins()))?;
    let service = *maps.service_names()?.get("web").context("no service")?;
    // Many flows of one source: they spread over both receive queues.
    let frame = |flow| {
        let frame = to_server(Frame::new(CLIENT[0], transport(flow)));
        Frame { payload: vec![0; payload], ..frame }.build()
    };
    let frames: Vec<_> = (0..64).map(frame).collect();
    let received_before = received(&scene.server)?;
    let (sent, counted) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&scene.client, &frames, OFFERED, FLOOD));
        thread::sleep(TIME);
        let counted = count_now(&maps, service);
        let sent = flood.join().unwrap_or_else(|_| anyhow::bail!("the flood panicked"));
        anyhow::Ok((sent?, counted?))
    })?;
    let (at, cpus) = counted;
    let admitted: u64 = cpus.iter().sum();
    let due = RATE as f64 * (at - sent.started).as_secs_f64() + BURST as f64;
    let error = admitted as f64 / due - 1.0;
    println!("{over:?}: {admitted} admitted, {due:.1} due, {:+.4} %; by CPU {cpus:?}", error * 100.0);
    ensure!(sent.frames >= OFFERED * TIME.as_secs(), "only {} frames were sent", sent.frames);
    ensure!(error.abs() < TOLERANCE, "{admitted} admitted, {due:.1} due");
    ensure!(
        cpus.iter().filter(|packets| **packets > admitted / 10).count() > 1,
        "one CPU did it all: {cpus:?}"
    );

    let counts = guard.counts()?;
    let count = |verdict: &str, reason: &str| counts[&("web".into(), verdict.into(), reason.into())];
    let (allowed, limited) = (count("pass", "allowed"), count("drop", over.name()));
    ensure!(allowed + limited == sent.frames, "each frame is counted under one of two reasons: {counts:?}");
    let arrived = received(&scene.server)? - received_before;
    ensure!(arrived == allowed, "what is allowed arrives, and nothing else: {arrived} of {allowed}");
    Ok(())
}

/// The packets that were allowed on each CPU, and when that was.
fn count_now(maps: &Maps, service: ServiceId) -> Result<(Instant, Vec<u64>)> {
    /// In which one packet is admitted at most: a look that takes longer is not of one moment.
    const A_MOMENT: Duration = Duration::from_micros(500);
    let verdict = Verdict { action: Action::Pass, reason: Reason::Allowed, service };
    for _ in 0..1000 {
        let before = Instant::now();
        let counters = maps.counter_by_cpu(verdict)?;
        let took = before.elapsed();
        if took < A_MOMENT {
            return Ok((before + took / 2, counters.iter().map(|counter| counter.packets).collect()));
        }
    }
    anyhow::bail!("no look at the counters was quick enough")
}

/// Datagrams and segments that have come to the host's stack. Nobody listens.
fn received(host: &Host) -> Result<u64> {
    statistics::sum(host, &[&DATAGRAMS[..], &[SEGMENTS]].concat())
}
