//! Packets that slip through many filters, and honest ones beside them.

mod datagrams;
mod fragments;
mod ipv4;
mod ipv6;
mod tags;

use crate::frame::{Frame, Transport};

/// One packet, as it goes onto the wire.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: &'static str,
    /// Its frames, in the order in which they are sent.
    pub frames: Vec<Vec<u8>>,
    /// Whether a bare Linux takes it in at the port; none where that is up to the kernel and its configuration.
    pub taken: Option<bool>,
    /// The same of one that uses conntrack, where that differs.
    pub taken_through_conntrack: Option<bool>,
    /// How many of its frames guard refuses as malformed, whoever sends them.
    pub malformed: usize,
    /// How many of its frames guard lets through from a stranger, since they reach no port: fragments that come before their first
    /// one, what is not TCP or UDP.
    pub harmless: usize,
}

/// The Ethernet source of every shape, for a tap to know them by.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];

/// Who sends the shapes, and what is in them.
pub struct Sender<'a> {
    /// Makes a packet for the port in question from an address; each time of another connection. Its payload is 32 bytes.
    pub packet: &'a dyn Fn(&str) -> Frame,
    /// An IPv4 and an IPv6 address.
    pub addresses: [&'a str; 2],
}

/// Every shape that TCP and UDP can have.
pub fn all(sender: &Sender<'_>) -> Vec<Shape> {
    [plain(sender), tags::all(sender), ipv4::all(sender), ipv6::all(sender), fragments::all(sender)].concat()
}

/// Those that only UDP can have.
pub fn datagrams(sender: &Sender<'_>) -> Vec<Shape> {
    datagrams::all(sender)
}

fn plain(sender: &Sender<'_>) -> Vec<Shape> {
    vec![taken("plain", sender.v4()), taken("plain, IPv6", sender.v6())]
}

impl Sender<'_> {
    fn v4(&self) -> Frame {
        Frame { source_mac: MAC, ..(self.packet)(self.addresses[0]) }
    }

    fn v6(&self) -> Frame {
        Frame { source_mac: MAC, ..(self.packet)(self.addresses[1]) }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.v4().transport, Transport::Tcp { .. })
    }
}

impl Shape {
    /// Whether the host takes it in; none where that is up to the kernel and its configuration.
    pub const fn is_taken(&self, conntrack: bool) -> Option<bool> {
        match self.taken_through_conntrack {
            Some(taken) if conntrack => Some(taken),
            _ => self.taken,
        }
    }

    const fn through_conntrack(mut self, taken: bool) -> Self {
        self.taken_through_conntrack = Some(taken);
        self
    }

    const fn malformed(mut self, frames: usize) -> Self {
        self.malformed = frames;
        self
    }

    const fn harmless(mut self, frames: usize) -> Self {
        self.harmless = frames;
        self
    }

    const fn depends_on_the_kernel(mut self) -> Self {
        self.taken = None;
        self
    }
}

/// One frame that a bare Linux takes in.
fn taken(name: &'static str, frame: Frame) -> Shape {
    of(name, vec![frame.build()], true)
}

/// One frame that it does not.
fn refused(name: &'static str, frame: Frame) -> Shape {
    of(name, vec![frame.build()], false)
}

fn of(name: &'static str, frames: Vec<Vec<u8>>, taken: bool) -> Shape {
    Shape { name, frames, taken: Some(taken), taken_through_conntrack: None, malformed: 0, harmless: 0 }
}

/// The frame with some of its bytes changed; the checksums stay as they were.
fn patched(frame: &Frame, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = frame.build();
    for (offset, byte) in changes {
        bytes[*offset] = *byte;
    }
    bytes
}
