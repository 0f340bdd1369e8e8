//! The rates of a source, in real traffic: ten times the limit is offered from two CPUs, and rate × time + burst gets through.
//!
//! The time is the kernel's own for each frame that came through. A machine that is busy holds the senders up; what they are behind they
//! send at once, and what of the limit they could not use does not count: the time begins where the whole burst was last there, and
//! ends where least of the limit was left, within the last second.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_common::Reason::{self, Allowed, ByteRate, ConnectionRate, PacketRate};
use guard_common::abi::Counter;
use guard_tests::frame::{Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::flood;
use guard_tests::scene::{ALLOW, CLIENT, Scene, to_server};
use guard_tests::tap::{Seen, Tap};

const PORT: u16 = 8000;
const TIME: Duration = Duration::from_secs(5);
/// How far what got through may be from what is due.
const TOLERANCE: f64 = 0.001;
/// The burst lasts so long at the rate.
const BURST: Duration = Duration::from_secs(2);
/// How many times the limit is offered.
const TIMES: u64 = 10;
/// Packets a second that a limit lets through.
const PACKETS: u64 = 4000;

/// A limit, and packets that it counts.
struct Limit {
    /// In the policy: the rate, and the burst.
    keys: [&'static str; 2],
    over: Reason,
    /// Units of the limit in a frame.
    units: fn(&[u8]) -> u64,
    packet: fn(flow: u16) -> Frame,
}

#[test]
fn packets() -> Result<()> {
    hold(&Limit {
        keys: ["packets_per_second", "packet_burst"],
        over: PacketRate,
        units: |_| 1,
        packet: datagram,
    })
}

#[test]
fn bytes() -> Result<()> {
    hold(&Limit {
        keys: ["bytes_per_second", "byte_burst"],
        over: ByteRate,
        units: |frame| frame.len() as u64,
        // Of many sizes, else bytes would be packets.
        packet: |flow| Frame { payload: vec![0x55; 20 + usize::from(flow) * 10], ..datagram(flow) },
    })
}

#[test]
fn connections() -> Result<()> {
    hold(&Limit {
        keys: ["connections_per_second", "connection_burst"],
        over: ConnectionRate,
        units: |_| 1,
        packet: |flow| {
            let transport = Transport::Tcp { source_port: 20_000 + flow, port: PORT, flags: SYN };
            to_server(Frame::new(CLIENT[0], transport))
        },
    })
}

fn datagram(flow: u16) -> Frame {
    to_server(Frame::new(CLIENT[0], Transport::Udp { source_port: 20_000 + flow, port: PORT }))
}

/// Offers ten times the limit, and fails if not what is due gets through.
fn hold(limit: &Limit) -> Result<()> {
    let scene = Scene::new()?;
    // Many flows of one source: they spread over both receive queues.
    let frames: Vec<_> = (0..64).map(|flow| (limit.packet)(flow).build()).collect();
    let rate = PACKETS * frames.iter().map(|frame| (limit.units)(frame)).sum::<u64>() / frames.len() as u64;
    let burst = rate * BURST.as_secs();
    let [rate_key, burst_key] = limit.keys;
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n\
         limits = \"client\"\n[limits.client]\n{rate_key} = {rate}\n{burst_key} = {burst}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let tap = Tap::open(&scene.server, scene.client.mac())?;
    let sent = flood(&scene.client, &frames, TIMES * PACKETS, TIME)?;
    let seen: Vec<_> = tap.drain()?.into_iter().filter(|seen| frames.contains(&seen.frame)).collect();

    let [allowed, limited] = [Allowed, limit.over].map(|reason| guard.counter("web", reason));
    let (allowed, limited) = (allowed?, limited?);
    ensure!(allowed.packets == seen.len() as u64, "{allowed:?} allowed, {} came through", seen.len());
    let offered = allowed.packets + limited.packets;
    let moments = moments(&seen, limit.units, rate, burst)?;
    let last = moments.last().context("nothing came through")?.time;
    let late = moments.iter().filter(|moment| moment.time + Duration::from_secs(1) > last);
    let end = late.max_by(|a, b| a.over().total_cmp(&b.over())).context("nothing came through")?;
    let most = moments.iter().map(Moment::over).fold(f64::MIN, f64::max);
    println!(
        "{rate_key}: {offered} packets of {} sent were offered, {} allowed; {end:?}: {:+.4} %, at most {:+.4} %",
        sent.frames,
        allowed.packets,
        end.over() * 100.0,
        most * 100.0
    );
    ensure!(offered > (TIMES - 1) * PACKETS * TIME.as_secs(), "only {offered} packets were offered");
    ensure!(end.time > TIME / 2, "this machine is too busy to tell: {end:?}");
    ensure!(most < TOLERANCE, "up to {most:+.5} of what was due came through too much");
    ensure!(end.over() > -TOLERANCE, "too little came through: {end:?}");
    on_two_cpus(&guard, limit.over, offered)
}
/// When a frame came through.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Since the whole burst was last there.
    time: Duration,
    /// Units that came through by then, and that were due.
    through: u64,
    due: f64,
}

impl Moment {
    /// By which part of what was due more came through; negative for less.
    fn over(&self) -> f64 {
        self.through as f64 / self.due - 1.0
    }
}

/// One for each frame that came through, in their order.
fn moments(seen: &[Seen], units: fn(&[u8]) -> u64, rate: u64, burst: u64) -> Result<Vec<Moment>> {
    let mut frames: Vec<_> = seen.iter().map(|seen| (seen.at, units(&seen.frame))).collect();
    // Two CPUs received them.
    frames.sort_unstable();
    let (mut start, _) = *frames.first().context("nothing came through")?;
    let mut through = 0;
    let moment = |(at, units): (Duration, u64)| {
        let come_back = rate as f64 * (at - start).as_secs_f64();
        if come_back >= through as f64 {
            (start, through) = (at, 0);
        }
        through += units;
        let time = at - start;
        Moment { time, through, due: rate as f64 * time.as_secs_f64() + burst as f64 }
    };
    Ok(frames.into_iter().map(moment).collect())
}

/// Fails if fewer than two CPUs received a fair part of what was offered.
fn on_two_cpus(guard: &Guard<'_>, over: Reason, offered: u64) -> Result<()> {
    let [allowed, limited] = [Allowed, over].map(|reason| guard.counter_by_cpu("web", reason));
    let packets = |counters: Vec<Counter>| counters.into_iter().map(|counter| counter.packets);
    let by_cpu: Vec<_> = packets(allowed?).zip(packets(limited?)).collect();
    let fair = by_cpu.iter().filter(|(allowed, limited)| allowed + limited > offered / 10);
    ensure!(fair.count() > 1, "one CPU received it all (allowed, limited): {by_cpu:?}");
    Ok(())
}
