//! Frames onto a wire, as they are.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::sched_getcpu;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, send, socket,
};

use crate::cpu;
use crate::net::Host;

/// A packet socket on the interface of a host.
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// # Errors
    /// Without root.
    pub fn open(host: &Host) -> Result<Self> {
        // Protocol 0 receives nothing.
        Ok(Self { socket: packet_socket(host, 0)? })
    }

    /// # Errors
    /// When the frame does not go out.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("a frame did not go out").map(drop)
    }
}

/// A packet socket on the interface of a host, for frames of this protocol.
pub(crate) fn packet_socket(host: &Host, protocol: u16) -> Result<OwnedFd> {
    host.enter(|| {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket")?;
        let index = if_nametoindex("eth0").context("the host has no eth0")?;
        bind(socket.as_raw_fd(), &link_address(index, protocol)?).context("cannot bind a packet socket")?;
        Ok(socket)
    })
}

pub(crate) fn link_address(index: u32, protocol: u16) -> Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index).context("an interface index that is none")?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr_ll, and the length is its own.
    let address = unsafe { SockaddrStorage::from_raw(std::ptr::from_ref(&address).cast(), Some(length)) };
    address.and_then(|address| address.as_link_addr().copied()).context("not a link address")
}

/// What a flood has sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub frames: u64,
    /// From before the first frame to after the last.
    pub time: Duration,
}

/// Sends `frames` in turn, `rate` a second in all, from one thread on each CPU.
///
/// # Errors
/// When a frame does not go out.
pub fn flood(host: &Host, frames: &[Vec<u8>], rate: u64, time: Duration) -> Result<Sent> {
    let cpus = thread::available_parallelism().context("cannot count the CPUs")?.get();
    let wires = (0..cpus).map(|_| Wire::open(host)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let sent: Result<Vec<u64>> = thread::scope(|scope| {
        let senders: Vec<_> = wires
            .iter()
            .enumerate()
            .map(|(cpu, wire)| {
                scope.spawn(move || send_paced(cpu, wire, frames, rate / cpus as u64, start, time))
            })
            .collect();
        senders
            .into_iter()
            .map(|sender| sender.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked")))
            .collect()
    });
    Ok(Sent { frames: sent?.iter().sum(), time: start.elapsed() })
}

/// Sends as many frames as are due, then rests: the rate holds however late the thread wakes up.
fn send_paced(
    cpu: usize,
    wire: &Wire,
    frames: &[Vec<u8>],
    rate: u64,
    start: Instant,
    time: Duration,
) -> Result<u64> {
    const REST: Duration = Duration::from_micros(500);
    cpu::stay_on(cpu)?;
    go_first();
    let mut sent = 0;
    loop {
        let elapsed = start.elapsed().min(time);
        let due = (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        while sent < due {
            let frame = &frames[(sent as usize + cpu) % frames.len()];
            wire.send(frame)?;
            sent += 1;
        }
        if elapsed == time {
            return Ok(sent);
        }
        thread::sleep(REST);
    }
}

/// Runs `work` on a thread that stays on one CPU: what two CPUs send may overtake each other.
///
/// # Errors
/// Those of `work`.
pub fn on_one_cpu<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    cpu::on(sched_getcpu().context("cannot tell the CPU")?, work)
}

/// Puts this thread before others of a busy machine, if that is allowed: a flood with pauses shows little of a limit.
fn go_first() {
    const BEFORE_OTHERS: libc::c_int = -10;
    // SAFETY: the call takes numbers only; on Linux 0 is this thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BEFORE_OTHERS) };
}
