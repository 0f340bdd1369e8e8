//! Traffic that never pauses while something is done to guard: from an allowed client and from a stranger.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::frame::Frame;
use crate::net::Host;
use crate::raw::Wire;
use crate::scene::{CLIENT, STRANGER, Scene, to_server};
use crate::wait;

/// Packets a second, from each of the two.
pub const RATE: u64 = 10_000;

/// Both senders and the listener, at work.
pub struct Traffic {
    client: Sender,
    stranger: Sender,
    listener: Listener,
}

/// What was sent and what arrived.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    pub client_sent: u64,
    pub client_arrived: u64,
    pub stranger_sent: u64,
    pub stranger_arrived: u64,
    pub time: Duration,
}

impl Traffic {
    /// Sends UDP to `port` of the server, where a listener counts by source.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(scene: &Scene, port: u16) -> Result<Self> {
        let listener = Listener::start(&scene.server, port)?;
        Ok(Self {
            client: Sender::start(&scene.client, CLIENT[0], port)?,
            stranger: Sender::start(&scene.stranger, STRANGER[0], port)?,
            listener,
        })
    }

    /// Packets of the stranger that have arrived so far.
    pub fn stranger_arrived(&self) -> u64 {
        self.listener.count(STRANGER[0])
    }

    /// Waits until so many more packets of the client have arrived.
    pub fn client_goes_on(&self, packets: u64) -> bool {
        self.client_goes_on_within(packets, Duration::from_secs(60))
    }

    /// The same, for at most `patience`.
    pub fn client_goes_on_within(&self, packets: u64, patience: Duration) -> bool {
        let before = self.listener.count(CLIENT[0]);
        wait::within(patience, || self.listener.count(CLIENT[0]) >= before + packets)
    }

    /// Ends the traffic and adds it up.
    ///
    /// # Errors
    /// When a frame did not go out.
    pub fn finish(self) -> Result<Totals> {
        let time = self.client.started.elapsed();
        let (client_sent, stranger_sent) = (self.client.finish()?, self.stranger.finish()?);
        let arrived = || self.listener.count(CLIENT[0]);
        wait::within(Duration::from_secs(5), || arrived() >= client_sent);
        Ok(Totals {
            client_sent,
            client_arrived: arrived(),
            stranger_sent,
            stranger_arrived: self.listener.count(STRANGER[0]),
            time,
        })
    }
}

struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
    started: Instant,
}

impl Sender {
    fn start(host: &Host, source: &str, port: u16) -> Result<Self> {
        let wire = Wire::open(host)?;
        let frame = to_server(Frame::udp(source, port)).build();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let started = Instant::now();
        let thread = thread::spawn(move || send(&wire, &frame, &stopped));
        Ok(Self { stop, thread, started })
    }

    fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a sender panicked"))?
    }
}

/// Sends what is due, then rests. What a thread that slept too long is behind it sends in parts: the receiver's ring has 256 places.
fn send(wire: &Wire, frame: &[u8], stop: &AtomicBool) -> Result<u64> {
    const REST: Duration = Duration::from_micros(500);
    const AT_ONCE: u64 = 32;
    let start = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_micros() * u128::from(RATE) / 1_000_000) as u64;
        for _ in 0..due.saturating_sub(sent).min(AT_ONCE) {
            wire.send(frame)?;
            sent += 1;
        }
        thread::sleep(REST);
    }
    Ok(sent)
}

/// Counts datagrams by source.
struct Listener {
    counts: Arc<BTreeMap<IpAddr, AtomicU64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(host: &Host, port: u16) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", port)).context("cannot listen for UDP"))?;
        setsockopt(&socket, RcvBufForce, &(256 << 20)).context("cannot make room for datagrams")?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("cannot set a timeout")?;
        let sources = [CLIENT[0], STRANGER[0]].into_iter().filter_map(|source| source.parse().ok());
        let counts: Arc<BTreeMap<IpAddr, _>> =
            Arc::new(sources.map(|source| (source, AtomicU64::new(0))).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, stopped) = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut datagram = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv_from(&mut datagram) {
                    Ok((_, source)) => {
                        if let Some(count) = counted.get(&source.ip()) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { counts, stop, thread: Some(thread) })
    }

    fn count(&self, source: &str) -> u64 {
        let source = source.parse().ok().and_then(|source: IpAddr| self.counts.get(&source));
        source.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
