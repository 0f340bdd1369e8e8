//! Asking the kernel over rtnetlink(7), in the network namespace of the thread that opens the socket.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub(super) type Answer = NetlinkPayload<RouteNetlinkMessage>;

pub(super) struct RouteSocket(Socket);

impl RouteSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a question; `flags` beside that it is one.
    pub(super) fn ask(&self, question: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(question);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.0.send(&buffer, 0).map(drop)
    }

    /// The messages that come next.
    pub(super) fn answers(&self) -> io::Result<Vec<Answer>> {
        let (bytes, _) = self.0.recv_from_full()?;
        let mut answers = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            answers.push(message.payload);
        }
        Ok(answers)
    }
}
