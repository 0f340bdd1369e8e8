//! A tunnel between two hosts: a tun device on each, and threads that carry IP packets between them as a VPN would.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::net::Host;

/// TUNSETIFF, IFF_TUN and IFF_NO_PI (linux/if_tun.h).
const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;
const TUN: u16 = 1;
const NO_PACKET_INFORMATION: u16 = 0x1000;
/// How long a thread rests when nothing is there to be carried.
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// Ends with its handle, and its devices with it.
pub struct Tunnel {
    over: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
    /// The end on the first host: a packet that is written here arrives there.
    end: File,
}

/// The name of the device on each host.
pub const TUNNEL: &str = "tun0";

impl Tunnel {
    /// # Errors
    /// Without root, or where the kernel has no tun devices.
    pub fn between(one: &Host, other: &Host) -> Result<Self> {
        let (one, other) = (device(one)?, device(other)?);
        let over = Arc::new(AtomicBool::new(false));
        let end = one.try_clone().context("cannot hold the end of a tunnel")?;
        let back = (other.try_clone().context("cannot hold the end of a tunnel")?, one.try_clone()?);
        let carriers = [(one, other), back].map(|(from, to)| {
            let over = Arc::clone(&over);
            thread::spawn(move || carry(from, to, &over))
        });
        Ok(Self { over, carriers: carriers.into(), end })
    }

    /// Lets a packet of any shape arrive at the first host. One that the device does not take is no error.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn inject(&mut self, packet: &[u8]) -> Result<()> {
        match self.end.write(packet) {
            Err(error) if error.kind() != ErrorKind::InvalidInput => {
                Err(error).context("cannot write a packet")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

fn device(host: &Host) -> Result<File> {
    host.enter(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun")?;
        // `struct ifreq`: the name, then the flags.
        let mut request = [0_u8; 40];
        request[..TUNNEL.len()].copy_from_slice(TUNNEL.as_bytes());
        request[16..18].copy_from_slice(&(TUN | NO_PACKET_INFORMATION).to_ne_bytes());
        // SAFETY: the kernel reads and writes a `struct ifreq`, and the request is as long as one.
        if unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, request.as_mut_ptr()) } < 0 {
            bail!("cannot make a tun device: {}", std::io::Error::last_os_error());
        }
        Ok(file)
    })
}

fn carry(mut from: File, mut to: File, over: &AtomicBool) {
    let mut packet = [0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        match from.read(&mut packet) {
            // What the other end does not take is lost, as on any wire.
            Ok(length) => drop(to.write(&packet[..length])),
            Err(_) => thread::sleep(BETWEEN_LOOKS),
        }
    }
}
