//! What a port of a host takes in.

use std::fs::{self, read_to_string};
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{Backlog, listen};

use crate::net::Host;

const RETRIES: &str = "/proc/sys/net/ipv4/tcp_synack_retries";

/// A port that packets are for.
pub trait Port {
    /// Packets that were taken in there since this was called last.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn packets(&self) -> Result<u64>;
}

pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// # Errors
    /// When the port is taken.
    pub fn open(server: &Host, port: u16) -> Result<Self> {
        let socket = server.enter(|| UdpSocket::bind(("::", port)).context("cannot listen for UDP"))?;
        socket.set_nonblocking(true).context("cannot set a socket to not wait")?;
        Ok(Self(socket))
    }
}

impl Port for Datagrams {
    fn packets(&self) -> Result<u64> {
        let mut packets = 0;
        loop {
            match self.0.recv(&mut [0; 64]) {
                Ok(_) => packets += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(packets),
                Err(error) => return Err(error).context("cannot receive datagrams"),
            }
        }
    }
}

/// What TCP answers from a port, a request or anything else: seen on its way out, so whoever it is for.
pub struct Answers<'a> {
    server: &'a Host,
    _listener: TcpListener,
    before: AtomicU64,
}

impl<'a> Answers<'a> {
    /// # Errors
    /// When the port is taken, or without nftables.
    pub fn open(server: &'a Host, port: u16) -> Result<Self> {
        let listener = server.enter(|| TcpListener::bind(("::", port)).context("cannot listen"))?;
        // An answer is for something that came just now, and no repetition.
        server.enter(|| fs::write(RETRIES, "0").context("cannot keep answers from being repeated"))?;
        let rules = format!(
            "add table inet answers; add chain inet answers out {{ type filter hook output priority 0; }}; \
             add rule inet answers out tcp sport {port} counter"
        );
        let (done, said) = server.output("nft", &[&rules])?;
        ensure!(done, "cannot count answers: {said}");
        Ok(Self { server, _listener: listener, before: AtomicU64::new(0) })
    }
}

impl Port for Answers<'_> {
    fn packets(&self) -> Result<u64> {
        let (done, said) = self.server.output("nft", &["list", "chain", "inet", "answers", "out"])?;
        let packets = said.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        let now = packets.and_then(|packets| packets.parse().ok()).filter(|_| done);
        let now: u64 = now.with_context(|| format!("no count of answers: {said}"))?;
        Ok(now - self.before.swap(now, Ordering::Relaxed))
    }
}

/// Connections that were asked for at a listener whose answers lead nowhere.
pub struct HalfOpen<'a> {
    server: &'a Host,
    listener: TcpListener,
    before: AtomicU64,
}

impl<'a> HalfOpen<'a> {
    /// Keeps requests for as long as a test takes, if the neighbour that they seem to be from is known.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open(server: &'a Host, port: u16) -> Result<Self> {
        let listener = server.enter(|| TcpListener::bind(("::", port)).context("cannot listen"))?;
        server.enter(|| fs::write(RETRIES, "20").context("cannot keep requests"))?;
        // Room for all requests, else they are answered by cookies and not kept.
        listen(&listener, Backlog::MAXCONN)?;
        Ok(Self { server, listener, before: AtomicU64::new(0) })
    }
}

impl Port for HalfOpen<'_> {
    fn packets(&self) -> Result<u64> {
        let port = self.listener.local_addr()?.port();
        let now: u64 = self.server.enter(|| {
            let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
            let count = |table| {
                Ok(read_to_string(table)?.lines().filter(|line| is_half_open(line, port)).count() as u64)
            };
            tables.into_iter().map(count).sum()
        })?;
        now.checked_sub(self.before.swap(now, Ordering::Relaxed)).context("a half-open connection is gone")
    }
}

/// A line of /proc/net/tcp: number, local address, remote address, state, …; `03` is SYN-RECV.
fn is_half_open(line: &str, port: u16) -> bool {
    let fields: Vec<_> = line.split_whitespace().collect();
    let local = format!(":{port:04X}");
    matches!(fields[..], [_, address, _, "03", ..] if address.ends_with(&local))
}
