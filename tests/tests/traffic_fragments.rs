//! Fragments in real traffic: later ones have the fate of the first, and nobody fills the memory in which Linux waits for the rest.

use std::fs::read_to_string;
use std::io::ErrorKind;
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use guard_common::Reason::{self, Blocked, FragmentRate, NotAllowed};
use guard_tests::conntrack;
use guard_tests::fence::Fence;
use guard_tests::frame::{Extension, Frame, Transport};
use guard_tests::guard::Guard;
use guard_tests::raw::{Wire, on_one_cpu};
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};

const PORT: u16 = 8000;
const LIMITED: u16 = 8001;
/// Bytes of a datagram in a fragment.
const SIZE: usize = 1400;
const DATAGRAM: usize = 60_000;
/// What Linux keeps at most of one family.
const QUEUE: u64 = 4 << 20;
/// Bytes a second, so few that the time that the test takes makes no difference, and at once.
const RATE: u64 = 1 << 10;
const BURST: u64 = 128 << 10;
const MODES: [&str; 2] = ["native", "generic"];

fn policy(mode: &str) -> String {
    let service = |name, port, limits| {
        format!(
            "[[service]]\nname = \"{name}\"\nports = [{port}]\nprotocols = [\"udp\"]\nallow = {ALLOW}\n{limits}"
        )
    };
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n{}{}\
         [limits.bytes]\nbytes_per_second = {RATE}\nbyte_burst = {BURST}\n",
        service("open", PORT, ""),
        service("limited", LIMITED, "limits = \"bytes\"\n")
    )
}

/// A server with a socket for each port, and the wires to it.
struct Site<'a> {
    scene: &'a Scene,
    sockets: [UdpSocket; 2],
    fence: Fence,
    client: Wire,
    stranger: Wire,
}

impl<'a> Site<'a> {
    fn open(scene: &'a Scene) -> Result<Self> {
        let listen = |port| -> Result<UdpSocket> {
            let socket =
                scene.server.enter(|| UdpSocket::bind(("::", port)).context("cannot listen for UDP"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            sockets: [listen(PORT)?, listen(LIMITED)?],
            fence: Fence::open(&scene.server)?,
            client: Wire::open(&scene.client)?,
            stranger: Wire::open(&scene.stranger)?,
            scene,
        })
    }

    /// Sends these frames of one host, and returns how many bytes of datagrams arrived meanwhile.
    fn send(&self, wire: &Wire, source: &str, frames: &[Frame]) -> Result<u64> {
        on_one_cpu(|| {
            frames.iter().try_for_each(|frame| wire.send(&frame.build()))?;
            self.fence.pass(wire, source)
        })?;
        self.arrived()
    }

    /// Bytes of datagrams since this was asked last.
    fn arrived(&self) -> Result<u64> {
        let (mut bytes, mut datagram) = (0, vec![0; 1 << 16]);
        for socket in &self.sockets {
            loop {
                match socket.recv(&mut datagram) {
                    Ok(length) => bytes += length as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("cannot receive"),
                }
            }
        }
        Ok(bytes)
    }

    /// Whether a datagram of the client arrives whose fragments come like this.
    fn client_arrives(&self, source: &str, identification: u16, order: Order) -> Result<bool> {
        let frames = order.of(datagram(source, PORT, DATAGRAM).fragments(SIZE, identification));
        Ok(self.send(&self.client, source, &frames)? == DATAGRAM as u64)
    }

    /// Bytes that Linux holds of incomplete packets, of both families.
    fn queued(&self) -> Result<[u64; 2]> {
        let of = |file: &str, line: &str| -> Result<u64> {
            let text =
                self.scene.server.enter(|| Ok(read_to_string(format!("/proc/thread-self/net/{file}"))?))?;
            let line = text.lines().find(|found| found.starts_with(line)).context("no line of fragments")?;
            Ok(line.split_whitespace().last().context("no figure")?.parse()?)
        };
        Ok([of("sockstat", "FRAG:")?, of("sockstat6", "FRAG6:")?])
    }
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Right,
    Reverse,
    /// The first one in the middle.
    Mixed,
}

impl Order {
    const ALL: [Self; 3] = [Self::Right, Self::Reverse, Self::Mixed];

    fn of(self, mut frames: Vec<Frame>) -> Vec<Frame> {
        match self {
            Self::Right => {}
            Self::Reverse => frames.reverse(),
            Self::Mixed => {
                let middle = frames.len() / 2;
                frames.rotate_left(middle);
            }
        }
        frames
    }
}

/// Packets that were counted for this reason.
fn counted(guard: &Guard<'_>, service: &str, reason: Reason) -> Result<u64> {
    let counts = guard.counts()?;
    let of_reason = counts.iter().filter(|((of, _, why), _)| of == service && why == reason.name());
    Ok(of_reason.map(|(_, packets)| packets).sum())
}

fn datagram(source: &str, port: u16, length: usize) -> Frame {
    let transport = Transport::Udp { source_port: 40_000, port };
    Frame { payload: vec![0x55; length], ..to_server(Frame::new(source, transport)) }
}

/// The same fragments as those of another packet.
fn renumbered(parts: &[Frame], number: u16) -> Vec<Frame> {
    let mut parts = parts.to_vec();
    for part in &mut parts {
        part.fragment.identification = number;
        for extension in &mut part.extensions {
            if let Extension::Fragment { identification, .. } = extension {
                *identification = number.into();
            }
        }
    }
    parts
}

/// A fragment of a packet of which nothing else is sent.
fn later(source: &str, identification: u16) -> Frame {
    datagram(source, PORT, 2 * SIZE).part(SIZE..2 * SIZE, identification)
}

/// A client that offers 30 MB as fragments, in their order and the last one first, gets no more through than its limit says.
#[test]
fn fragments_take_no_client_out_of_its_limit() -> Result<()> {
    for order in [Order::Right, Order::Reverse] {
        for client in CLIENT {
            let scene = Scene::new()?;
            let site = Site::open(&scene)?;
            let _guard = Guard::start(&scene.server, &policy("native"))?;
            let start = std::time::Instant::now();
            let (mut offered, mut arrived) = (0, 0);
            let parts = datagram(client, LIMITED, DATAGRAM).fragments(SIZE, 0);
            for batch in 0..100 {
                // As many as the socket has room for.
                let numbers = batch * 5..batch * 5 + 5;
                let frames: Vec<_> =
                    numbers.flat_map(|number| order.of(renumbered(&parts, number))).collect();
                arrived += site.send(&site.client, client, &frames)?;
                offered += 5 * DATAGRAM as u64;
            }
            // The burst, and what came back while it was sent.
            let most = BURST + (start.elapsed().as_secs_f64() * RATE as f64) as u64;
            println!("{client}, {order:?}: {arrived} of {offered} bytes, {most} at most");
            ensure!(arrived <= most, "{client}, {order:?}: {arrived} of {offered} bytes, {most} at most");
            ensure!(arrived >= DATAGRAM as u64, "{client}, {order:?}: nothing arrived");
        }
    }
    Ok(())
}

#[test]
fn a_block_of_the_host_stops_every_later_fragment() -> Result<()> {
    const COUNT: u16 = 20_000;
    for mode in MODES {
        let scene = Scene::new()?;
        let site = Site::open(&scene)?;
        let guard = Guard::start(&scene.server, &policy(mode))?;
        for client in CLIENT {
            let (code, _, said) = guard.output(&["block", client])?;
            ensure!(code == Some(0), "{said}");
            let before = counted(&guard, "", Blocked)?;
            on_one_cpu(|| {
                (0..COUNT).try_for_each(|number| site.client.send(&later(client, number).build()))?;
                site.fence.pass(&site.stranger, STRANGER[0])
            })?;
            let dropped = counted(&guard, "", Blocked)? - before;
            ensure!(dropped == u64::from(COUNT), "{mode}, {client}: {dropped} of {COUNT}");
        }
        ensure!(site.queued()? == [0; 2], "{mode}: {:?} in the queue", site.queued()?);
    }
    Ok(())
}

#[test]
fn a_flood_of_refused_packets_in_fragments_leaves_nothing_behind() -> Result<()> {
    for mode in MODES {
        let scene = Scene::new()?;
        let site = Site::open(&scene)?;
        let guard = Guard::start(&scene.server, &policy(mode))?;
        for stranger in STRANGER {
            let frames: Vec<_> = (0..10_000)
                .flat_map(|number| datagram(stranger, PORT, 2 * SIZE).fragments(SIZE, number))
                // Without its end no packet is complete.
                .filter(|frame| frame.payload.len() == SIZE)
                .collect();
            ensure!(site.send(&site.stranger, stranger, &frames)? == 0, "{mode}: a stranger gets through");
            let queued = site.queued()?;
            ensure!(queued == [0; 2], "{mode}: {queued:?} bytes in the queue");
            let refused = counted(&guard, "open", NotAllowed)?;
            ensure!(refused >= frames.len() as u64, "{mode}: {refused} of {}", frames.len());
        }
        for client in CLIENT {
            ensure!(site.client_arrives(client, 1, Order::Right)?, "{mode}: {client} is kept out");
        }
    }
    Ok(())
}

#[test]
fn fragments_from_forged_sources_do_not_fill_the_queue() -> Result<()> {
    for mode in MODES {
        let scene = Scene::new()?;
        let site = Site::open(&scene)?;
        let guard = Guard::start(&scene.server, &policy(mode))?;
        let frames: Vec<_> = (0..20_000_u16)
            .flat_map(|number| {
                let [_, low] = number.to_be_bytes();
                [format!("10.77.{}.{low}", 2 + number % 250), format!("2001:db8:{number:x}::9")]
                    .map(|source| later(&source, number))
            })
            .collect();
        site.send(&site.stranger, STRANGER[0], &frames)?;
        let queued = site.queued()?;
        println!("{mode}: {queued:?} bytes in the queue");
        ensure!(queued.iter().all(|bytes| *bytes > 0 && *bytes < QUEUE / 4), "{mode}: {queued:?}");
        let over = counted(&guard, "", FragmentRate)?;
        ensure!(over > frames.len() as u64 * 9 / 10, "{mode}: {over} of {}", frames.len());
        for client in CLIENT {
            for number in 0..20 {
                ensure!(site.client_arrives(client, number, Order::Right)?, "{mode}: {client} is kept out");
            }
        }
    }
    Ok(())
}

fn arrive_in_any_order(mode: &str, with_conntrack: bool) -> Result<()> {
    let scene = Scene::new()?;
    let site = Site::open(&scene)?;
    if with_conntrack {
        conntrack::begin(&scene.server)?;
    }
    let _guard = Guard::start(&scene.server, &policy(mode))?;
    for client in CLIENT {
        for order in Order::ALL {
            for number in 0..20 {
                ensure!(
                    site.client_arrives(client, number, order)?,
                    "{mode}, conntrack: {with_conntrack}, {client}, {order:?}: number {number}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_of_a_client_arrive_in_any_order() -> Result<()> {
    arrive_in_any_order("native", false)
}

#[test]
fn fragments_of_a_client_arrive_in_any_order_in_generic_mode() -> Result<()> {
    arrive_in_any_order("generic", false)
}

#[test]
fn fragments_of_a_client_arrive_in_any_order_through_conntrack() -> Result<()> {
    arrive_in_any_order("native", true)
}

#[test]
fn fragments_of_a_client_arrive_in_any_order_through_conntrack_in_generic_mode() -> Result<()> {
    arrive_in_any_order("generic", true)
}

/// More first fragments of strangers than the tables have room for, and forged later ones, between a client's first fragment and its others.
#[test]
fn strangers_do_not_drive_out_what_is_known_of_a_client() -> Result<()> {
    const MORE_THAN_THE_TABLE: u32 = 140_000;
    let scene = Scene::new()?;
    let site = Site::open(&scene)?;
    let guard = Guard::start(&scene.server, &policy("native"))?;
    let frames = datagram(CLIENT[0], PORT, DATAGRAM).fragments(SIZE, 7);
    site.send(&site.client, CLIENT[0], &frames[..1])?;
    on_one_cpu(|| {
        for number in 0..MORE_THAN_THE_TABLE {
            let [_, a, b, c] = number.to_be_bytes();
            let source = format!("{}.{b}.{c}.9", 20 + a);
            let first = number % 8 != 0;
            let frame = if first {
                datagram(&source, PORT, 16).part(0..16, number as u16)
            } else {
                later(&source, number as u16)
            };
            site.stranger.send(&frame.build())?;
        }
        site.fence.pass(&site.stranger, STRANGER[0])
    })?;
    ensure!(counted(&guard, "", FragmentRate)? > 0, "the bound is not reached");
    let arrived = site.send(&site.client, CLIENT[0], &frames[1..])?;
    ensure!(arrived == DATAGRAM as u64, "{arrived} bytes of the client's datagram");
    Ok(())
}
