//! Shapes of packets that slip through many filters: from a stranger none of them reaches the guarded port, from an allowed client each
//! arrives that the host's stack accepts.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use guard_common::Reason;
use guard_tests::arrivals::{Datagrams, HalfOpen, Port};
use guard_tests::conntrack;
use guard_tests::fence::Fence;
use guard_tests::frame::{Frame, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Tags};
use guard_tests::raw::{Wire, on_one_cpu};
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};
use guard_tests::shapes::{self, Sender, Shape};
use guard_tests::tap::Tap;

const PORT: u16 = 8000;

/// Neighbours of the client and of the stranger that nobody is: no host answers the server's SYN-ACK with a reset.
const ABSENT_CLIENT: [&str; 2] = ["10.77.1.77", "fd00:77::1:77"];
const ABSENT_STRANGER: [&str; 2] = ["10.77.66.77", "fd00:77::66:77"];

#[test]
fn no_datagram_of_a_stranger_arrives() -> Result<()> {
    judge_datagrams("native", false)
}

#[test]
fn no_datagram_of_a_stranger_arrives_in_generic_mode() -> Result<()> {
    judge_datagrams("generic", false)
}

#[test]
fn no_datagram_of_a_stranger_arrives_through_conntrack() -> Result<()> {
    judge_datagrams("native", true)
}

#[test]
fn no_datagram_of_a_stranger_arrives_through_conntrack_in_generic_mode() -> Result<()> {
    judge_datagrams("generic", true)
}

#[test]
fn no_connection_request_of_a_stranger_arrives() -> Result<()> {
    judge_connection_requests("native", false)
}

#[test]
fn no_connection_request_of_a_stranger_arrives_in_generic_mode() -> Result<()> {
    judge_connection_requests("generic", false)
}

#[test]
fn no_connection_request_of_a_stranger_arrives_through_conntrack() -> Result<()> {
    judge_connection_requests("native", true)
}

#[test]
fn no_connection_request_of_a_stranger_arrives_through_conntrack_in_generic_mode() -> Result<()> {
    judge_connection_requests("generic", true)
}

fn judge_datagrams(mode: &str, conntrack: bool) -> Result<()> {
    let scene = Scene::new()?;
    let port = Datagrams::open(&scene.server, PORT)?;
    let packet = |source: &str| Frame { payload: vec![0x55; 32], ..to_server(Frame::udp(source, PORT)) };
    let shapes = |addresses| {
        let sender = Sender { packet: &packet, addresses };
        [shapes::all(&sender), shapes::datagrams(&sender)].concat()
    };
    judge(&scene, (mode, conntrack), &port, shapes, [CLIENT, STRANGER])
}

fn judge_connection_requests(mode: &str, conntrack: bool) -> Result<()> {
    let scene = Scene::new()?;
    let server = &scene.server;
    let port = HalfOpen::open(server, PORT)?;
    // A neighbour that is not found takes its requests with it.
    for address in [ABSENT_CLIENT, ABSENT_STRANGER].concat() {
        server.ip(&format!("neighbour add {address} lladdr 02:00:00:00:00:bb dev eth0"))?;
    }
    let next = Cell::new(20_000);
    let packet = |source: &str| {
        // Each request is of a connection of its own.
        next.set(next.get() + 1);
        let transport = Transport::Tcp { source_port: next.get(), port: PORT, flags: SYN };
        to_server(Frame { payload: vec![0x55; 32], ..Frame::new(source, transport) })
    };
    let shapes = |addresses| shapes::all(&Sender { packet: &packet, addresses });
    judge(&scene, (mode, conntrack), &port, shapes, [ABSENT_CLIENT, ABSENT_STRANGER])
}

/// Sends all shapes of the client and of the stranger, without guard and with it.
fn judge(
    scene: &Scene,
    (mode, conntrack): (&str, bool),
    port: &(impl Port + Sync),
    shapes: impl Fn([&'static str; 2]) -> Vec<Shape>,
    [client, stranger]: [[&'static str; 2]; 2],
) -> Result<()> {
    if conntrack {
        conntrack::begin(&scene.server)?;
    }
    let server =
        Server { tap: Tap::open(&scene.server, shapes::MAC)?, fence: Fence::open(&scene.server)?, port };
    // Without guard: what the host's stack takes. This is what shows that the test can fail.
    for (host, addresses) in [(&scene.client, client), (&scene.stranger, stranger)] {
        let outcomes = server.receive(host, addresses[0], shapes(addresses))?;
        compare("without guard", &outcomes, |shape, arrival| Arrival {
            taken: shape.is_taken(conntrack).unwrap_or(arrival.taken),
            frames: shape.frames.len(),
        })?;
    }
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [{PORT}]\n\
         protocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    let outcomes = server.receive(&scene.stranger, stranger[0], shapes(stranger))?;
    compare("of a stranger", &outcomes, |shape, _| Arrival { taken: false, frames: shape.harmless })?;
    let outcomes = server.receive(&scene.client, client[0], shapes(client))?;
    compare("of an allowed client", &outcomes, |shape, arrival| Arrival {
        taken: shape.malformed == 0 && shape.is_taken(conntrack).unwrap_or(arrival.taken),
        frames: shape.frames.len() - shape.malformed,
    })?;
    let counts = guard.counts()?;
    let counted = counts[&(String::new(), "drop".into(), Reason::Malformed.name().into())];
    let sent: usize = outcomes.iter().map(|(shape, _)| shape.malformed).sum();
    ensure!(counted == 2 * sent as u64, "each of the two sent {sent} malformed frames: {counts:?}");
    // A card may have taken the outer tag off before any program sees the frame.
    scene.network.carry_tags(&scene.server, Tags::BesideFrames)?;
    for (shape, arrival) in server.receive(&scene.stranger, stranger[0], shapes(stranger))? {
        ensure!(!arrival.taken, "{} of a stranger without its outer tag", shape.name);
    }
    Ok(())
}

/// Holds what became of shapes against what should have.
fn compare(
    whose: &str,
    outcomes: &[(Shape, Arrival)],
    expected: impl Fn(&Shape, Arrival) -> Arrival,
) -> Result<()> {
    let wrong = outcomes.iter().filter_map(|(shape, arrival)| {
        let expected = expected(shape, *arrival);
        (expected != *arrival).then(|| format!("\n{}: {arrival:?} in place of {expected:?}", shape.name))
    });
    let wrong: String = wrong.collect();
    ensure!(wrong.is_empty(), "shapes {whose}:{wrong}");
    Ok(())
}

/// What became of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrival {
    /// At the port.
    taken: bool,
    /// At the host, raw.
    frames: usize,
}

/// The server, as its senders do not see it.
struct Server<'a, P> {
    port: &'a P,
    tap: Tap,
    fence: Fence,
}

impl<P: Port + Sync> Server<'_, P> {
    /// Sends each shape from a host and says what became of it. `source` is an address of the host.
    fn receive(&self, host: &Host, source: &str, shapes: Vec<Shape>) -> Result<Vec<(Shape, Arrival)>> {
        let wire = Wire::open(host)?;
        let receive = |shape: Shape| {
            for frame in &shape.frames {
                wire.send(frame).with_context(|| shape.name)?;
            }
            self.fence.pass(&wire, source).with_context(|| shape.name)?;
            let packets = self.port.packets()?;
            ensure!(packets <= 1, "{}: {packets} packets of one", shape.name);
            let arrival = Arrival { taken: packets == 1, frames: self.tap.drain()?.len() };
            Ok((shape, arrival))
        };
        on_one_cpu(|| shapes.into_iter().map(receive).collect())
    }
}
