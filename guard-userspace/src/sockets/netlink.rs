//! Asking the kernel over netlink: lists, and single orders.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlaBuffer, NlasIterator};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

const HEADER: usize = 16;
/// NLMSG_ERROR and NLMSG_DONE (linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel fills no more than 32 KiB at once.
const BUFFER: usize = 32 << 10;
/// Answers come while the question is sent. One that does not come within this many seconds never will.
const PATIENCE: i64 = 5;

/// A socket to one subsystem of the kernel, in the network namespace of the thread that opened it. It keeps that namespace alive.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    sequence: u32,
}

impl Channel {
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a list and hands each entry of the answer to `each`.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
        let mut buffer = vec![0; BUFFER];
        // The answer is read to its end in any case: the kernel takes no other question before.
        let mut unreadable = None;
        loop {
            for message in self.receive(&mut buffer)? {
                match message.kind {
                    DONE | ERROR => return unreadable.map_or_else(|| outcome(message.payload), Err),
                    _ => {
                        if let Err(error) = each(message.payload) {
                            unreadable.get_or_insert(error);
                        }
                    }
                }
            }
        }
    }

    /// Asks for one thing, and returns what the kernel says of it.
    pub(super) fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(kind, NLM_F_REQUEST, body)?;
        let mut buffer = [0; 4 << 10];
        loop {
            if let Some(message) = self.receive(&mut buffer)?.first() {
                return match message.kind {
                    DONE | ERROR => outcome(message.payload).map(|()| Vec::new()),
                    _ => Ok(message.payload.to_vec()),
                };
            }
        }
    }

    /// Gives an order and waits until it is carried out or refused.
    pub(super) fn order(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK, body)?;
        let mut buffer = [0; 4 << 10];
        loop {
            for message in self.receive(&mut buffer)? {
                if matches!(message.kind, DONE | ERROR) {
                    return outcome(message.payload);
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(kind, flags, self.sequence, body)?;
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// The next messages that answer the last question.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Vec<Message<'b>>> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) if errno == Errno::EWOULDBLOCK => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
                Ok(length) => break length,
            }
        };
        let mut messages = messages(buffer.get(..length).unwrap_or_default())?;
        messages.retain(|message| message.sequence == self.sequence);
        Ok(messages)
    }
}

struct Message<'b> {
    kind: u16,
    sequence: u32,
    payload: &'b [u8],
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // Its own port: the kernel fills it in.
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    Ok(message)
}

fn messages(mut rest: &[u8]) -> io::Result<Vec<Message<'_>>> {
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(unreadable)?;
        let (kind, sequence) = (message.message_type(), message.sequence_number());
        messages.push(Message { kind, sequence, payload: message.payload() });
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// What the last message of an answer says: a negative error number, or nothing.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) }
}

/// The attributes at the end of a message, or within another one.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = io::Result<NlaBuffer<&[u8]>>> {
    NlasIterator::new(bytes).map(|attribute| attribute.map_err(unreadable))
}

/// Appends an attribute of a length that is a multiple of 4.
pub(super) fn add_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> io::Result<()> {
    body.extend(u16::try_from(4 + value.len()).map_err(io::Error::other)?.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    Ok(())
}

/// An answer that cannot be what the kernel meant.
pub(super) fn unreadable(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_one_after_the_other() {
        let mut bytes = message(20, 0, 7, &[1, 2, 3, 4, 5]).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(message(DONE, 0, 8, &(-2_i32).to_ne_bytes()).unwrap());
        let read: Vec<_> =
            messages(&bytes).unwrap().iter().map(|m| (m.kind, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(read, [(20, 7, vec![1, 2, 3, 4, 5]), (DONE, 8, vec![0xfe, 0xff, 0xff, 0xff])]);
        assert_eq!(outcome(&read[1].2).unwrap_err().raw_os_error(), Some(2));
        assert!(outcome(&[]).is_ok() && outcome(&[0; 4]).is_ok());
        assert!(outcome(&i32::MIN.to_ne_bytes()).is_err());
    }

    #[test]
    fn cut_messages_are_errors() {
        let bytes = message(20, 0, 7, &[1; 8]).unwrap();
        for length in 1..bytes.len() {
            assert!(messages(&bytes[..length]).is_err(), "{length}");
        }
    }
}
