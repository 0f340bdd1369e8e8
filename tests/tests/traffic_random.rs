//! Random frames of a stranger, many of them broken: none reaches the guarded port, in either mode, with conntrack and without.
//!
//! `GUARD_TEST_STRANGERS` sets how many are sent in each of the four cases.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guard_common::parse::{Headers, parse};
use guard_tests::arrivals::{Answers, Datagrams, Port};
use guard_tests::conntrack;
use guard_tests::fence::Fence;
use guard_tests::frame::random::{self, Space};
use guard_tests::frame::{Extension, Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::{Wire, on_one_cpu};
use guard_tests::scene::{ALLOW, STRANGER, Scene, to_server};
use ipnet::IpNet;

const PORT: u16 = 8000;
const FRAMES: usize = 24_000;
const BATCH: usize = 500;
/// What the interface sends in one piece.
const LARGEST: usize = 1514;
const IPV6_PAYLOAD: usize = 54;

#[test]
fn no_random_frame_of_a_stranger_arrives() -> Result<()> {
    send("native", false)
}

#[test]
fn no_random_frame_of_a_stranger_arrives_in_generic_mode() -> Result<()> {
    send("generic", false)
}

#[test]
fn no_random_frame_of_a_stranger_arrives_through_conntrack() -> Result<()> {
    send("native", true)
}

#[test]
fn no_random_frame_of_a_stranger_arrives_through_conntrack_in_generic_mode() -> Result<()> {
    send("generic", true)
}

fn send(mode: &str, conntrack: bool) -> Result<()> {
    let frames = match std::env::var("GUARD_TEST_STRANGERS") {
        Ok(frames) => frames.parse().context("GUARD_TEST_STRANGERS is no number")?,
        Err(_) => FRAMES,
    };
    let scene = Scene::new()?;
    if conntrack {
        conntrack::begin(&scene.server)?;
    }
    let ports: [&(dyn Port + Sync); 2] =
        [&Datagrams::open(&scene.server, PORT)?, &Answers::open(&scene.server, PORT)?];
    let stranger = Stranger { wire: Wire::open(&scene.stranger)?, fence: Fence::open(&scene.server)?, ports };
    let mut rng = Rng::new();
    let seed = rng.u64(..);
    rng.seed(seed);
    // What shows that the test can fail.
    let arrived = stranger.send(&mut rng, 4 * BATCH, |_, _| true)?;
    ensure!(arrived.iter().all(|arrived| *arrived > 0), "without guard {arrived:?} arrived (seed {seed})");
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [{PORT}]\n\
         protocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    );
    let _guard = Guard::start(&scene.server, &policy)?;
    stranger.send(&mut rng, frames, |batch, arrived| {
        println!("{arrived:?} arrived of batch {batch:02x?} (seed {seed})");
        false
    })?;
    Ok(())
}

struct Stranger<'a> {
    wire: Wire,
    fence: Fence,
    ports: [&'a (dyn Port + Sync); 2],
}

impl Stranger<'_> {
    /// Returns how many arrived at each port. `may_arrive` is told which frames were sent when some did, and says whether that may be.
    fn send(
        &self,
        rng: &mut Rng,
        frames: usize,
        may_arrive: impl Fn(&[Vec<u8>], [u64; 2]) -> bool + Sync,
    ) -> Result<[u64; 2]> {
        on_one_cpu(|| {
            let mut arrived = [0; 2];
            for _ in 0..frames.div_ceil(BATCH) {
                let batch: Vec<_> = (0..BATCH).map(|_| frame(rng)).collect();
                for frame in &batch {
                    self.wire.send(frame)?;
                }
                self.fence.pass(&self.wire, STRANGER[0])?;
                let found = [self.ports[0].packets()?, self.ports[1].packets()?];
                ensure!(found == [0; 2] || may_arrive(&batch, found), "{found:?} of a batch arrived");
                arrived = [arrived[0] + found[0], arrived[1] + found[1]];
            }
            Ok(arrived)
        })
    }
}

/// A frame to the server that is not from an allowed address.
fn frame(rng: &mut Rng) -> Vec<u8> {
    let sources = STRANGER.iter().filter_map(|address| address.parse().ok()).collect();
    let space = Space { sources, ports: vec![PORT] };
    loop {
        let mut shape = random::shape(rng, &space);
        if let Transport::Tcp { flags, .. } = &mut shape.transport
            && rng.u8(..) < 192
        {
            *flags = SYN;
        }
        shape.payload.truncate(600);
        if shape.source.is_ipv6() && rng.u8(..) < 64 {
            hide(rng, &mut shape);
        }
        let bytes = random::broken(rng, to_server(shape).build());
        if bytes.len() <= LARGEST && !is_allowed(&bytes) {
            return bytes;
        }
    }
}

/// Puts TCP or UDP to the port behind eight bytes that are a header of one kind and are called another.
fn hide(rng: &mut Rng, shape: &mut Frame) {
    let inner =
        Frame { extensions: Vec::new(), vlan: Vec::new(), length_error: 0, padding: 0, ..shape.clone() };
    let number = inner.transport.number();
    let inner = to_server(inner).build();
    let eight = [number, 0, [1, 253][rng.usize(..2)], [4, 0][rng.usize(..2)], 0, 0, 0, 0];
    shape.payload = [&eight[..], inner.get(IPV6_PAYLOAD..).unwrap_or_default()].concat();
    let kinds = [0, 6, 17, 43, 44, 51, 58, 59, 60, 99, 135, 139];
    shape.transport = Transport::Raw(kinds[rng.usize(..kinds.len())]);
    if rng.bool() {
        let before = [
            Extension::HopByHop(0),
            Extension::DestinationOptions(0),
            Extension::Routing { kind: 253, units: 0 },
        ];
        let fragment = Extension::Fragment { offset: 0, more: false, identification: rng.u32(..) };
        shape.extensions = vec![before[rng.usize(..before.len())], fragment];
    }
}

/// Changed bits may have made the stranger an allowed client.
fn is_allowed(bytes: &[u8]) -> bool {
    let mut headers = Headers::default();
    let _ = parse(bytes, &mut headers);
    let source = IpAddr::from(headers.source);
    let mut nets = ["10.77.1.0/24", "fd00:77::1:0/112"].iter().filter_map(|net| net.parse::<IpNet>().ok());
    nets.any(|net| net.contains(&source))
}
