//! The packet rate of a source, in real traffic.

use std::time::Duration;

use anyhow::Result;
use guard_common::Reason;
use guard_tests::frame::{Frame, Transport};
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::raw::flood;
use guard_tests::scene::{ALLOW, CLIENT, Scene, to_server};

const PORT: u16 = 8000;
const RATE: u64 = 2000;
const BURST: u64 = 1000;
const TIME: Duration = Duration::from_secs(10);

#[test]
fn ten_times_the_rate_from_two_cpus_gets_rate_and_burst_through() -> Result<()> {
    let scene = Scene::new()?;
    let listener = UdpCounter::listen(&scene.server, PORT)?;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n\
         limits = \"client\"\n[limits.client]\npackets_per_second = {RATE}\npacket_burst = {BURST}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    // Many flows of one source: they spread over both receive queues.
    let frames: Vec<_> = (0..64)
        .map(|flow| {
            let transport = Transport::Udp { source_port: 20_000 + flow, port: PORT };
            to_server(Frame::new(CLIENT[0], transport)).build()
        })
        .collect();
    let sent = flood(&scene.client, &frames, 10 * RATE, TIME)?;
    let arrived = listener.settled();
    let counts = guard.counts()?;
    let count = |verdict: &str, reason: &str| counts[&("web".into(), verdict.into(), reason.into())];
    let (allowed, limited) = (count("pass", "allowed"), count("drop", "packet_rate"));
    let due = RATE as f64 * sent.time.as_secs_f64() + BURST as f64;
    println!(
        "sent {} in {:?}: {allowed} allowed, {limited} limited, {arrived} arrived, {due:.0} due",
        sent.frames, sent.time
    );
    assert!(sent.frames > 9 * RATE * TIME.as_secs(), "only {} frames were sent", sent.frames);
    assert_eq!(allowed + limited, sent.frames, "each frame is counted under one reason");
    assert_eq!(arrived, allowed, "what is allowed arrives, and nothing else");
    assert!((allowed as f64 / due - 1.0).abs() < 0.01, "{allowed} allowed, {due:.0} due");
    let cpus = guard.counts_by_cpu("web", Reason::Allowed)?;
    println!("allowed by CPU: {cpus:?}");
    assert!(
        cpus.iter().filter(|packets| **packets > allowed / 10).count() > 1,
        "one CPU did it all: {cpus:?}"
    );
    Ok(())
}
