//! A server that streams, and those who listen to it.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket};
use nix::sys::time::TimeVal;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::net::{Host, Running};
use crate::{stale, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// `guard-streaming-server` on a port of a host.
pub struct StreamingServer<'a> {
    host: &'a Host,
    port: u16,
    process: Running,
}

impl<'a> StreamingServer<'a> {
    /// Starts it and waits until it answers. `program` is its path: cargo tells that only to tests.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(host: &'a Host, program: &str, port: u16) -> Result<Self> {
        let process = host.start(host.command(program).args(["--port", &port.to_string()]))?;
        let server = Self { host, port, process };
        ensure!(wait::within(PATIENCE, || server.get("health").is_ok()), "the server does not start");
        Ok(server)
    }

    /// Lets the server stand still, or go on: SIGSTOP and SIGCONT.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Generations that run at this moment.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn active(&self) -> Result<u64> {
        serde_json::from_str::<Value>(&self.get("active")?)?["active"].as_u64().context("no number")
    }

    /// Waits until so many generations run.
    pub fn has(&self, active: u64, patience: Duration) -> bool {
        wait::within(patience, || self.active().is_ok_and(|found| found == active))
    }

    fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        let (ok, text) = self.host.output("curl", &["-sf", "-m", "2", &url])?;
        ensure!(ok, "{text}");
        Ok(text)
    }
}

/// A client that listens to a stream.
pub struct Stream {
    _process: Running,
    heard: NamedTempFile,
}

impl Stream {
    /// Bytes that have come so far.
    ///
    /// # Errors
    /// When the file that they go to is gone.
    pub fn heard(&self) -> Result<u64> {
        Ok(self.heard.as_file().metadata().context("no file")?.len())
    }

    /// Waits until so many more bytes have come.
    pub fn goes_on(&self, bytes: u64, patience: Duration) -> bool {
        let before = self.heard().unwrap_or(0);
        wait::within(patience, || self.heard().is_ok_and(|now| now >= before + bytes))
    }
}

/// Asks port 8000 of a server for a stream of 50 words a second, each some hundred bytes, that goes on for half an hour.
///
/// # Errors
/// When curl cannot be started.
pub fn stream(host: &Host, server: &str) -> Result<Stream> {
    let heard = NamedTempFile::with_prefix(stale::prefix()).context("no file for what is heard")?;
    let mut curl = host.command("curl");
    curl.arg("-sNo").arg(heard.path()).args(["-H", "content-type: application/json", "-d"]);
    curl.arg(r#"{"prompt": "x", "stream": true, "max_tokens": 100000, "delay": 20}"#);
    let server = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
    let process = host.start(curl.arg(format!("http://{server}:8000/v1/completions")))?;
    Ok(Stream { _process: process, heard })
}

/// Opens connections to port 8000 of a server from one address of a client, and does nothing with them.
///
/// # Errors
/// When one is not open after some seconds: a busy machine loses packets.
pub fn connect_from(host: &Host, client: &str, server: &str, count: usize) -> Result<Vec<TcpStream>> {
    const ANSWER: TimeVal = TimeVal::new(5, 0);
    let server: SocketAddr = (server.parse::<IpAddr>()?, 8000).into();
    let client: SocketAddr = (client.parse::<IpAddr>()?, 0).into();
    let family = if server.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    host.enter(|| {
        let open = || -> Result<TcpStream> {
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // Of a connect, it is how long that may take.
            setsockopt(&socket, SendTimeout, &ANSWER)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(client))?;
            nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(server))?;
            Ok(TcpStream::from(socket))
        };
        (0..count).map(|_| open().context("cannot connect")).collect()
    })
}

/// Opens connections to port 8000 of a server and does nothing with them.
///
/// # Errors
/// When one is not open after half a second.
pub fn connect(host: &Host, server: &str, count: usize) -> Result<Vec<TcpStream>> {
    let server: SocketAddr = (server.parse::<IpAddr>()?, 8000).into();
    host.enter(|| {
        let open = || TcpStream::connect_timeout(&server, Duration::from_millis(500));
        (0..count).map(|_| open().context("cannot connect")).collect()
    })
}
