//! What guard lets through to the stack of a host, frame by frame.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

use crate::net::Host;
use crate::raw::packet_socket;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// A packet socket on the interface of a host. The kernel hands frames to it behind XDP, in both modes, and before IP.
pub struct Tap {
    socket: OwnedFd,
    from: [u8; 6],
}

/// A frame that came through.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Without its outer VLAN tag, which Linux takes off.
    pub frame: Vec<u8>,
    /// When the kernel received it, by the clock of the day.
    pub at: Duration,
}

impl Tap {
    /// Listens for frames with this source in their Ethernet header.
    ///
    /// # Errors
    /// Without root.
    pub fn open(host: &Host, from: [u8; 6]) -> Result<Self> {
        let socket = packet_socket(host, libc::ETH_P_ALL as u16)?;
        setsockopt(&socket, RcvBufForce, &(256 << 20)).context("cannot make room for frames")?;
        setsockopt(&socket, ReceiveTimestampns, &true).context("cannot ask for the time of frames")?;
        ensure!(
            wait::within(PATIENCE, || arrivals_are_timed().unwrap_or(false)),
            "the kernel times no arrivals"
        );
        Ok(Self { socket, from })
    }

    /// The frames that came since this was called last.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn drain(&self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut frame = vec![0; 1 << 16];
        while let Some((length, at)) = receive(&self.socket, &mut frame, MsgFlags::MSG_DONTWAIT)? {
            let frame = &frame[..length];
            if frame.get(6..12) == Some(&self.from) {
                seen.push(Seen { frame: frame.to_vec(), at });
            }
        }
        Ok(seen)
    }
}

/// The length of what a socket received, and when; none where it would wait.
fn receive(socket: &impl AsRawFd, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<(usize, Duration)>> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = cmsg_space!(TimeSpec);
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error).context("cannot receive"),
    };
    let time = message.cmsgs().context("the time of a frame is cut off")?.find_map(time_of);
    Ok(Some((message.bytes, time.context("a frame without its time")?)))
}

/// Whether the kernel notes when something arrives. It begins a while after it is asked; before, it tells when something was read.
fn arrivals_are_timed() -> Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    socket.send_to(&[0], socket.local_addr()?)?;
    let sent = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let received = receive(&socket, &mut [0], MsgFlags::empty())?;
    Ok(received.is_some_and(|(_, at)| at <= sent))
}

fn time_of(message: ControlMessageOwned) -> Option<Duration> {
    if let ControlMessageOwned::ScmTimestampns(time) = message { Some(time.into()) } else { None }
}
