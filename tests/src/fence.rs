//! Knowing that everything that was sent before is through.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::frame::{Frame, Transport};
use crate::net::Host;
use crate::raw::Wire;
use crate::scene::to_server;

/// A port of the server that no test guards.
const PORT: u16 = 9999;
/// Flows enough that each receive queue gets one of them.
const FLOWS: u16 = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// Datagrams to a port that is not guarded, behind those that are in question: queues keep the order, so when these have arrived the
/// others have or never will.
pub struct Fence {
    socket: UdpSocket,
}

impl Fence {
    /// # Errors
    /// When the port is taken.
    pub fn open(server: &Host) -> Result<Self> {
        let socket = server.enter(|| UdpSocket::bind(("::", PORT)).context("cannot listen for UDP"))?;
        socket.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
        Ok(Self { socket })
    }

    /// Sends from `source` and waits until all of it has arrived. What is in question was sent on the same CPU: see
    /// [`on_one_cpu`](crate::raw::on_one_cpu).
    ///
    /// # Errors
    /// When it does not arrive.
    pub fn pass(&self, wire: &Wire, source: &str) -> Result<()> {
        for flow in 0..FLOWS {
            let transport = Transport::Udp { source_port: 30_000 + flow, port: PORT };
            wire.send(&to_server(Frame::new(source, transport)).build())?;
        }
        for _ in 0..FLOWS {
            self.socket.recv(&mut [0; 8]).context("a datagram to an open port was lost")?;
        }
        Ok(())
    }
}
