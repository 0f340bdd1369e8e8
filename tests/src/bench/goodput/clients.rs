//! Those whom every filter lets in.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::super::Cpus;
use super::super::strangers::ADDRESS;
use super::site::Ends;
use super::wrk::{self, Answers};
use crate::cpu;

const STREAMS: usize = 4;
/// Milliseconds from one token to the next.
const BODY: &str = r#"{"prompt":"x","stream":true,"max_tokens":1000000,"delay":10}"#;

/// What they got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) answers: Answers,
    pub(super) stall: Duration,
}

/// Has wrk ask and streams run for so long, at the same time.
pub(super) fn run(ends: &Ends, cpus: Cpus, time: Duration) -> Result<Served> {
    let end = Instant::now() + time;
    thread::scope(|scope| {
        let listen = || {
            ends.world.enter(|| {
                cpu::stay_on(cpus.world)?;
                Ok(silence(end))
            })
        };
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(listen)).collect();
        let answers = cpu::on(cpus.world, || wrk::run(&ends.world, time));
        let mut stall = Duration::ZERO;
        for stream in streams {
            stall = stall.max(stream.join().map_err(|_| anyhow!("a listener panicked"))??);
        }
        Ok(Served { answers: answers?, stall })
    })
}

/// Listens to a stream until then. Returns the longest time without a token, that until the first included.
fn silence(end: Instant) -> Duration {
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    // Whatever goes wrong, nothing is heard from there on.
    let _ = listen(end, || {
        longest = longest.max(last.elapsed());
        last = Instant::now();
    });
    longest.max(end.saturating_duration_since(last))
}

fn listen(end: Instant, mut heard: impl FnMut()) -> Result<()> {
    let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut server = TcpStream::connect_timeout(&(ADDRESS, 8000).into(), left())?;
    let length = BODY.len();
    write!(
        server,
        "POST /v1/completions HTTP/1.1\r\nHost: goodput\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{BODY}"
    )?;
    let mut tokens = [0; 4096];
    while Instant::now() < end {
        server.set_read_timeout(Some(left()))?;
        match server.read(&mut tokens) {
            Ok(0) => break,
            Ok(_) => heard(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
