//! How a page is asked for, and how it comes: one byte there; a status, a length and a text back.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use axum::http::StatusCode;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::agent::metrics::Format;

/// What there is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Metrics(Format),
    Healthy,
    Ready,
}

/// A page, as HTTP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: Vec<u8>,
}

/// Bytes before the text: status and length.
pub(super) const HEAD: usize = 6;
/// The metrics of 65,000 services take less.
const LONGEST: usize = 256 << 20;

impl Page {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Metrics(Format::Text) => b't',
            Self::Metrics(Format::OpenMetrics) => b'o',
            Self::Healthy => b'h',
            Self::Ready => b'r',
        }
    }

    pub(super) const fn of_code(code: u8) -> Option<Self> {
        match code {
            b't' => Some(Self::Metrics(Format::Text)),
            b'o' => Some(Self::Metrics(Format::OpenMetrics)),
            b'h' => Some(Self::Healthy),
            b'r' => Some(Self::Ready),
            _ => None,
        }
    }
}

impl Answer {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.text.len()).map_err(io::Error::other)?;
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&self.status.as_u16().to_le_bytes());
        head[2..].copy_from_slice(&length.to_le_bytes());
        to.write_all(&head)?;
        to.write_all(&self.text)
    }

    /// The status and the length that a head announces.
    pub(super) fn announced([a, b, length @ ..]: [u8; HEAD]) -> io::Result<(StatusCode, usize)> {
        let status = StatusCode::from_u16(u16::from_le_bytes([a, b])).map_err(io::Error::other)?;
        match usize::try_from(u32::from_le_bytes(length)) {
            Ok(length) if length <= LONGEST => Ok((status, length)),
            _ => Err(io::Error::other("the agent announces an answer that is too long")),
        }
    }
}

/// The ends that a server works with, beside the socket that it listens on.
pub(super) struct Ends {
    pub(super) scrapes: UnixStream,
    pub(super) health: UnixStream,
    /// The server says an empty line when it serves.
    pub(super) news: UnixStream,
}

impl Ends {
    /// Both sides of each pair.
    pub(super) fn pairs() -> io::Result<(Self, Self)> {
        let (scrapes, health, news) = (UnixStream::pair()?, UnixStream::pair()?, UnixStream::pair()?);
        Ok((
            Self { scrapes: scrapes.0, health: health.0, news: news.0 },
            Self { scrapes: scrapes.1, health: health.1, news: news.1 },
        ))
    }

    pub(super) fn send(self, listener: &TcpListener, over: &UnixStream) -> io::Result<()> {
        let [scrapes, health, news] = [&self.scrapes, &self.health, &self.news].map(AsRawFd::as_raw_fd);
        let descriptors = [listener.as_raw_fd(), scrapes, health, news];
        let message = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(over.as_raw_fd(), &[IoSlice::new(b"+")], &message, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// None when the other side is gone.
    pub(super) fn receive(over: &UnixStream) -> io::Result<Option<(TcpListener, Self)>> {
        let mut byte = [0];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut bytes = [IoSliceMut::new(&mut byte)];
        let message =
            recvmsg::<()>(over.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Ok(None);
        }
        let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs()?.next() else {
            return Err(io::Error::other("no descriptors came"));
        };
        let four = <[RawFd; 4]>::try_from(descriptors);
        let [listener, scrapes, health, news] =
            four.map_err(|_| io::Error::other("four descriptors were expected"))?.map(own);
        let ends = Self { scrapes: scrapes.into(), health: health.into(), news: news.into() };
        Ok(Some((listener.into(), ends)))
    }
}

#[expect(unsafe_code, reason = "descriptors come as numbers")]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for this process, and nothing else knows of it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Reads one code; none when the other side is gone.
pub(super) fn read_code(from: &mut impl Read) -> io::Result<Option<u8>> {
    let mut code = [0];
    Ok((from.read(&mut code)? > 0).then_some(code[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_answers_arrive_as_they_were_sent() {
        let (agent, keeper) = UnixStream::pair().unwrap();
        let (mut mine, theirs) = Ends::pairs().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        theirs.send(&listener, &agent).unwrap();
        let (same, mut received) = Ends::receive(&keeper).unwrap().unwrap();
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        for page in
            [Page::Metrics(Format::Text), Page::Metrics(Format::OpenMetrics), Page::Healthy, Page::Ready]
        {
            received.health.write_all(&[page.code()]).unwrap();
            let code = read_code(&mut mine.health).unwrap().unwrap();
            assert_eq!(Page::of_code(code), Some(page));
        }
        let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, text: b"not ready\n".to_vec() };
        answer.write(&mut mine.scrapes).unwrap();
        let mut head = [0; HEAD];
        received.scrapes.read_exact(&mut head).unwrap();
        let (status, length) = Answer::announced(head).unwrap();
        let mut text = vec![0; length];
        received.scrapes.read_exact(&mut text).unwrap();
        assert_eq!(Answer { status, text }, answer);
        drop(agent);
        assert!(Ends::receive(&keeper).unwrap().is_none());
        assert!(Answer::announced([0xff; HEAD]).is_err());
    }
}
