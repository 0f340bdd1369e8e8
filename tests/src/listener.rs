//! What arrives at a port, counted.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::net::Host;
use crate::wait;

/// A UDP socket that counts its datagrams.
pub struct UdpCounter {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpCounter {
    /// Listens for both families.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(host: &Host, port: u16) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind(("::", port)).context("cannot listen for UDP"))?;
        setsockopt(&socket, RcvBufForce, &(64 << 20)).context("cannot make room for datagrams")?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("cannot set a timeout")?;
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut datagram = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv(&mut datagram) {
                    Ok(_) => counted.fetch_add(1, Ordering::Relaxed),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        continue;
                    }
                    Err(_) => return,
                };
            }
        });
        Ok(Self { count, stop, thread: Some(thread) })
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The count once nothing has come for a while.
    pub fn settled(&self) -> u64 {
        const QUIET: Duration = Duration::from_millis(50);
        let mut last = (self.count(), Instant::now());
        wait::within(Duration::from_secs(5), || {
            let now = self.count();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > QUIET
        });
        last.0
    }
}

impl Drop for UdpCounter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
