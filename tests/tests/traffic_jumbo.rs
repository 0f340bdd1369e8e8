//! Frames of 9,000 bytes: the program sees the first of several buffers, judges the frame by it and counts all of its packet.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use guard_common::Reason::{self, Allowed, ByteRate, Malformed, NotAllowed};
use guard_common::abi::Counter;
use guard_tests::fence::Fence;
use guard_tests::frame::{Extension, Frame};
use guard_tests::guard::Guard;
use guard_tests::net::Host;
use guard_tests::raw::{Wire, on_one_cpu};
use guard_tests::scene::{ALLOW, CLIENT, SERVER, STRANGER, Scene, to_server};

const MTU: u32 = 9000;
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8000;
/// A port with a limit of bytes.
const LIMITED: u16 = 8001;
/// The least that a limit of bytes may have as its burst.
const BURST: u64 = 64 << 10;

fn large_network() -> Result<Scene> {
    let scene = Scene::new()?;
    scene.network.set_mtu(&[&scene.server, &scene.client, &scene.stranger], MTU)?;
    Ok(scene)
}

fn policy(mode: &str) -> String {
    let services = [("large", PORT, ""), ("limited", LIMITED, "limits = \"bytes\"\n")].map(|(name, port, limits)| {
        format!(
            "[[service]]\nname = \"{name}\"\nports = [{port}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n{limits}"
        )
    });
    format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n{}\
         [limits.bytes]\nbytes_per_second = 1024\nbyte_burst = {BURST}\n",
        services.concat()
    )
}

/// A datagram with this many bytes, no two of which are the same for long.
fn datagram(source: &str, port: u16, length: usize) -> Frame {
    let payload = (0..length).map(|at| (at / 251 + at) as u8).collect();
    Frame { payload, ..to_server(Frame::udp(source, port)) }
}

/// The same, with its ports behind so many words of destination options each.
fn behind_options(source: &str, words: &[u8]) -> Frame {
    let extensions = words.iter().map(|words| Extension::DestinationOptions(*words)).collect();
    Frame { extensions, ..datagram(source, PORT, 4000) }
}

/// The server's socket for the port, and the ways of the others to it.
struct Port {
    socket: UdpSocket,
    fence: Fence,
}

impl Port {
    fn open(server: &Host, port: u16) -> Result<Self> {
        let socket = server.enter(|| UdpSocket::bind(("::", port)).context("cannot listen for UDP"))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, fence: Fence::open(server)? })
    }

    /// Sends the frames of one packet and returns the datagram that arrives, if one does.
    fn receive(&self, host: &Host, frames: &[Frame]) -> Result<Option<Vec<u8>>> {
        let wire = Wire::open(host)?;
        let source = frames.first().context("no frames")?.source.to_string();
        on_one_cpu(|| {
            frames.iter().try_for_each(|frame| wire.send(&frame.build()))?;
            self.fence.pass(&wire, &source)
        })?;
        let mut datagram = vec![0; 1 << 16];
        match self.socket.recv(&mut datagram) {
            Ok(length) => {
                datagram.truncate(length);
                Ok(Some(datagram))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("cannot receive"),
        }
    }
}

/// A packet that is longer than one buffer.
struct Large {
    name: &'static str,
    whole: Frame,
    /// What goes onto the wire.
    frames: Vec<Frame>,
    /// What becomes of it if its source is allowed.
    reason: Reason,
}

fn packets([v4, v6]: [&str; 2]) -> Vec<Large> {
    let one = |name, whole: Frame, reason| Large { name, frames: vec![whole.clone()], whole, reason };
    let whole = datagram(v4, PORT, 20_000);
    let frames = whole.fragments(8000, 7);
    vec![
        one("8,000 bytes", datagram(v4, PORT, 8000), Allowed),
        one("8,000 bytes, IPv6", datagram(v6, PORT, 8000), Allowed),
        one("options of IPv4", Frame { options: vec![1; 40], ..datagram(v4, PORT, 8000) }, Allowed),
        one("ports behind 2,000 bytes of options", behind_options(v6, &[255]), Allowed),
        one("ports behind 4,000 bytes of options", behind_options(v6, &[255, 255]), Malformed),
        Large { name: "three fragments", whole, frames, reason: Allowed },
    ]
}

#[test]
fn a_large_frame_is_judged_by_its_first_buffer_and_counted_whole() -> Result<()> {
    large_frames_are_judged("native")
}

#[test]
fn generic_mode_judges_large_frames_too() -> Result<()> {
    large_frames_are_judged("generic")
}

fn large_frames_are_judged(mode: &str) -> Result<()> {
    let scene = large_network()?;
    let port = Port::open(&scene.server, PORT)?;
    let hosts = [(&scene.client, CLIENT), (&scene.stranger, STRANGER)];
    for (host, addresses) in hosts {
        for Large { name, whole, frames, .. } in packets(addresses) {
            ensure!(port.receive(host, &frames)? == Some(whole.payload), "{name} without guard");
        }
    }
    let guard = Guard::start(&scene.server, &policy(mode))?;
    ensure!(guard.log().contains(&format!("{mode} mode, frames of any size")), "{}", guard.log());
    for (host, addresses) in hosts {
        for Large { name, whole, frames, reason } in packets(addresses) {
            let name = format!("{name} from {}", whole.source);
            let reason = if reason == Allowed && addresses == STRANGER { NotAllowed } else { reason };
            let service = if reason == Malformed { "" } else { "large" };
            let before = guard.counter(service, reason)?;
            let arrived = port.receive(host, &frames)?;
            let after = guard.counter(service, reason)?;
            ensure!(
                arrived == (reason == Allowed).then_some(whole.payload),
                "{name}: {reason:?} or not whole"
            );
            // Later fragments have the fate of the first.
            let sent: Vec<_> = frames.iter().map(|frame| frame.build().len() as u64).collect();
            let bytes = before.bytes + sent.iter().sum::<u64>();
            let expected = Counter { packets: before.packets + sent.len() as u64, bytes };
            ensure!(after == expected, "{name}: {after:?} after {before:?}");
        }
    }
    Ok(())
}

#[test]
fn a_limit_of_bytes_counts_all_buffers() -> Result<()> {
    a_limit_counts(&datagram(CLIENT[0], LIMITED, 8000))
}

#[test]
fn a_limit_of_bytes_counts_padding() -> Result<()> {
    a_limit_counts(&Frame { padding: 8000, ..datagram(CLIENT[0], LIMITED, 10) })
}

fn a_limit_counts(frame: &Frame) -> Result<()> {
    let scene = large_network()?;
    let port = Port::open(&scene.server, LIMITED)?;
    let guard = Guard::start(&scene.server, &policy("native"))?;
    let within = BURST / frame.build().len() as u64;
    for number in 0..2 * within {
        let arrived = port.receive(&scene.client, std::slice::from_ref(frame))?.is_some();
        ensure!(arrived == (number < within), "frame {number} of {within}: arrived is {arrived}");
    }
    ensure!(guard.counter("limited", Allowed)?.packets == within, "{:?}", guard.counts()?);
    ensure!(guard.counter("limited", ByteRate)?.packets == within, "{:?}", guard.counts()?);
    Ok(())
}

#[test]
fn an_upload_in_large_frames_arrives_whole() -> Result<()> {
    const LENGTH: usize = 4 << 20;
    let scene = large_network()?;
    let listener = scene.server.enter(|| TcpListener::bind(("::", PORT)).context("cannot listen"))?;
    let guard = Guard::start(&scene.server, &policy("native"))?;
    let receiver = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept().context("nobody comes")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(std::io::copy(&mut stream, &mut std::io::sink())? as usize)
    });
    scene.client.enter(|| {
        let server = SocketAddr::new(SERVER[0].parse()?, PORT);
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("cannot connect")?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x55; LENGTH]).context("cannot upload")
    })?;
    let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
    ensure!(received == LENGTH, "{received} bytes of {LENGTH} arrived");
    let Counter { packets, bytes } = guard.counter("large", Allowed)?;
    println!("{LENGTH} bytes in {packets} packets, {bytes} bytes with headers");
    ensure!(bytes >= LENGTH as u64 && bytes / packets > 4000, "{packets} packets, {bytes} bytes");
    Ok(())
}
