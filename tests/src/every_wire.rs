//! A stranger at the far end of several wires, and the frames of it that come through, by interface.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, recvfrom, sendto, setsockopt, socket,
};

use crate::net::Host;
use crate::raw::link_address;

/// Sends the frames over each of these interfaces of a host, those that come and go included, until it is over. Returns how many went out.
///
/// # Errors
/// When the kernel gives no socket.
pub fn send_over_each(
    host: &Host,
    interfaces: &[String],
    frames: &[Vec<u8>],
    over: &AtomicBool,
) -> Result<u64> {
    const REST: Duration = Duration::from_millis(1);
    host.enter(|| {
        let socket = open()?;
        let mut addresses = vec![None; interfaces.len()];
        let mut sent = 0;
        while !over.load(Ordering::Relaxed) {
            for (interface, address) in interfaces.iter().zip(&mut addresses) {
                if address.is_none() {
                    let index = if_nametoindex(interface.as_str()).ok();
                    *address = index.map(|index| link_address(index, 0)).transpose()?;
                }
                let Some(known) = address else { continue };
                let send = |frame| sendto(socket.as_raw_fd(), frame, known, MsgFlags::MSG_DONTWAIT);
                let gone = frames.iter().take_while(|frame| send(frame).is_ok()).count();
                sent += gone as u64;
                if gone < frames.len() {
                    // It is down or gone: the next one of this name has another number.
                    *address = None;
                }
            }
            thread::sleep(REST);
        }
        Ok(sent)
    })
}

/// A packet socket on all interfaces of a host, also those that come later. The kernel hands frames to it behind XDP.
pub struct EveryTap {
    socket: OwnedFd,
    from: [u8; 6],
}

impl EveryTap {
    /// Listens for frames with this source in their Ethernet header.
    ///
    /// # Errors
    /// Without root.
    pub fn open(host: &Host, from: [u8; 6]) -> Result<Self> {
        let socket = host.enter(open)?;
        setsockopt(&socket, RcvBufForce, &(512 << 20)).context("cannot make room for frames")?;
        bind(socket.as_raw_fd(), &link_address(0, libc::ETH_P_ALL as u16)?)
            .context("cannot bind a packet socket")?;
        Ok(Self { socket, from })
    }

    /// How many frames came by each interface since this was called last.
    ///
    /// # Errors
    /// When the kernel had no room for some: one of them may have been the one that matters.
    pub fn drain(&self) -> Result<BTreeMap<u32, u64>> {
        let mut counts = BTreeMap::new();
        let mut frame = [0; 64];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((length, Some(address))) if frame[..length].get(6..12) == Some(&self.from) => {
                    let index = u32::try_from(address.ifindex()).context("not an index")?;
                    *counts.entry(index).or_default() += 1;
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("cannot receive frames"),
            }
        }
        let lost = self.lost()?;
        ensure!(lost == 0, "{lost} frames did not fit into the socket");
        Ok(counts)
    }

    fn lost(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the structure.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(result).context("cannot ask for lost frames")?;
        Ok(statistics.tp_drops)
    }
}

/// Receives nothing before it is bound.
fn open() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Packet, SockType::Raw, flags, None).context("cannot open a packet socket")
}
