//! Asking the kernel over rtnetlink(7), in the network namespace of the thread that opens the socket.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A list that changed while the kernel wrote it is asked for again, this many times.
const TRIES: usize = 8;

pub(super) struct RouteSocket(Socket);

impl RouteSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// All entries of a list, as they were at one moment.
    pub(super) fn list<M>(&self, question: &M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 0..TRIES {
            self.send(question, NLM_F_DUMP)?;
            if let Some(entries) = self.entries()? {
                return Ok(entries);
            }
        }
        Err(io::Error::other("the list changes faster than the kernel writes it"))
    }

    /// The answer to a question about one thing, or none where the kernel does not know the thing.
    pub(super) fn get<M>(&self, question: &M) -> io::Result<Option<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        self.send(question, 0)?;
        match self.receive()?.pop().map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(answer)) => Ok(Some(answer)),
            Some(NetlinkPayload::Error(error)) => match error.to_io() {
                error if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
                error => Err(error),
            },
            _ => Err(io::Error::other("the kernel's answer is none to the question")),
        }
    }

    fn send<M: NetlinkSerializable + Clone>(&self, question: &M, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question.clone()));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.0.send(&buffer, 0).map(drop)
    }

    /// The rest of a list; none if the list changed meanwhile.
    fn entries<M: NetlinkDeserializable>(&self) -> io::Result<Option<Vec<M>>> {
        let mut entries = Vec::new();
        let mut changed = false;
        loop {
            for message in self.receive()? {
                changed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => entries.push(entry),
                    NetlinkPayload::Done(_) => return Ok((!changed).then_some(entries)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }

    /// The messages that come next.
    fn receive<M: NetlinkDeserializable>(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let (bytes, _) = self.0.recv_from_full()?;
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}
