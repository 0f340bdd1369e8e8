//! Connections: what the packet path notes of them, and what the tracker counts.

use super::{ServiceId, SourceKey};
use crate::packet::read;
use crate::{Address, Packet};

/// A TCP connection of a client to a service, as far as packets tell it. Translation on this host (a published port) changes neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct FlowKey {
    address: [u8; 16],
    port: [u8; 2],
    service: u8,
    padding: u8,
}

impl FlowKey {
    #[inline(always)]
    pub const fn new(address: Address, port: u16, service: ServiceId) -> Self {
        Self { address: address.to_bytes(), port: port.to_be_bytes(), service: service.get(), padding: 0 }
    }

    pub const fn address(&self) -> Address {
        Address::v6(self.address)
    }

    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    #[inline(always)]
    fn from_bytes(bytes: [u8; 20]) -> Self {
        let [address @ .., p0, p1, service, _] = bytes;
        Self { address, port: [p0, p1], service, padding: 0 }
    }

    fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes.split_at_mut(16).0.copy_from_slice(&self.address);
        bytes[16..].copy_from_slice(&[self.port[0], self.port[1], self.service, 0]);
        bytes
    }
}

/// A handshake that a client begins: its end of the connection, and where it begins to count bytes. Only the client and the server know that
/// number, so a SYN that somebody else sends in its name is another handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct OpeningKey {
    address: [u8; 16],
    sequence: [u8; 4],
    port: [u8; 2],
    padding: [u8; 2],
}

impl OpeningKey {
    #[inline(always)]
    pub const fn new(address: Address, port: u16, sequence: u32) -> Self {
        Self {
            address: address.to_bytes(),
            sequence: sequence.to_be_bytes(),
            port: port.to_be_bytes(),
            padding: [0; 2],
        }
    }
}

/// What a handshake is counted under once it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Opening {
    source: SourceKey,
    /// Not 0: the same client has begun it at several services. No stack does that, so it wants to be counted at the wrong one.
    ambiguous: u32,
}

impl Opening {
    #[inline(always)]
    pub const fn new(source: SourceKey) -> Self {
        Self { source, ambiguous: 0 }
    }

    /// The same client begins it at `source`, too.
    #[inline(always)]
    pub fn begin_again(&mut self, source: &SourceKey) {
        if self.source != *source {
            self.ambiguous = 1;
        }
    }

    /// Of several, the one that came first.
    #[inline(always)]
    pub const fn first_source(&self) -> SourceKey {
        self.source
    }

    /// None if that cannot be told.
    #[inline(always)]
    pub const fn source(&self) -> Option<SourceKey> {
        if self.ambiguous == 0 { Some(self.source) } else { None }
    }
}

/// How many connections a source has open, and how many it has ever opened: two numbers in one word, so that whoever reads it twice knows
/// whether anything happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct OpenCount(u64);

impl OpenCount {
    /// What a connection that opens adds to the word.
    pub const OPENED: u64 = 1 << 32 | 1;
    /// What one that ends adds.
    pub const CLOSED: u64 = 1_u64.wrapping_neg();

    /// As if `open` were opened before.
    pub const fn new(open: u32) -> Self {
        Self((open as u64) << 32 | open as u64)
    }

    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        Self(word)
    }

    /// How many are open. A count that went wrong, below nothing, is nothing: nobody is refused for it.
    #[inline(always)]
    pub const fn open(self) -> u64 {
        let open = self.0 as u32;
        if open > i32::MAX as u32 { 0 } else { open as u64 }
    }

    /// By how much the number that is counted as open is more than `number`.
    pub const fn exceeds(self, number: u32) -> i64 {
        (self.0 as u32).wrapping_sub(number).cast_signed() as i64
    }
}

/// What the programs must know of the host and its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Home {
    /// The inode of the network namespace that guard's interfaces are in.
    pub namespace: u32,
    /// Where that number lies in the kernel's `struct net`.
    pub inode_at: u32,
    /// Where the number of the next byte that is expected lies in its `struct tcp_sock`.
    pub next_at: u32,
    /// Where the number of bytes that were received lies there.
    pub received_at: u32,
    /// Where it says there whether the socket is a subflow of Multipath TCP; 0: the kernel has none.
    pub multipath_at: u32,
    /// Where it leads there to its `struct mptcp_subflow_context`.
    pub context_at: u32,
    /// Where the token of its connection lies in that.
    pub subflow_token_at: u32,
    /// Where the protocol lies in `struct sock`.
    pub protocol_at: u32,
    /// Where the token lies in `struct mptcp_sock`.
    pub token_at: u32,
}

/// A connection that its source had no right to any longer when it was opened: its handshake was under way when the last free place went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Surplus {
    pub cookie: u64,
    /// Not 0: the table of connections is full, so the limit of its source cannot count this one.
    pub no_room: u64,
}

/// A connection that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tracked {
    pub source: SourceKey,
    pub flow: FlowKey,
    /// The inode of the network namespace that its socket is in; 0 if that could not be told.
    pub namespace: u32,
    /// The bits of [`Marks`], which the programs change one by one.
    pub marks: Marks,
}

/// How a connection came to be known, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Marks(pub u32);

impl Marks {
    /// A comparison has found it; the packet path did not see it come in. It counts, and is evidence of nothing.
    pub const FOUND: u32 = 1;
    /// The client has closed its end. What the server holds from then on is not held against the client.
    pub const CLOSED_BY_CLIENT: u32 = 2;
    /// The client still acknowledges what the server sends: it has closed only its own direction.
    pub const SERVED: u32 = 4;
    /// It is over, and one program is about to remove it.
    pub const ENDED: u32 = 8;

    /// Whether the connection takes one of its source's places.
    #[inline(always)]
    pub const fn counts(self) -> bool {
        self.0 & (Self::CLOSED_BY_CLIENT | Self::SERVED) != Self::CLOSED_BY_CLIENT
    }

    /// Whether it can be held against the client.
    #[inline(always)]
    pub const fn is_evidence(self) -> bool {
        self.0 & Self::FOUND == 0
    }

    #[must_use]
    pub const fn with(self, bit: u32) -> Self {
        Self(self.0 | bit)
    }

    #[inline(always)]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// A correction of what is counted, which the agent hands to the program `guard_correct` as a frame:
/// operation (8 bytes), number (8), source (20), flow (20), namespace (4), marks (4); numbers in the byte order of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// A socket is there that is not counted.
    Open { cookie: u64, tracked: Tracked },
    /// A socket is counted that is not there.
    Close { cookie: u64 },
    /// A bit of its [`Marks`] is to be set: the client has closed it, or is served all the same.
    Mark { cookie: u64, marks: Marks },
    /// So many are to be added to the count of a source, in two's complement.
    Add { source: SourceKey, amount: u64 },
}

impl Correction {
    pub const LENGTH: usize = 64;
    const OPEN: u64 = 1;
    const CLOSE: u64 = 2;
    const ADD: u64 = 3;
    const MARK: u64 = 4;

    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let (operation, number, source, flow, namespace, marks) = match *self {
            Self::Open { cookie, tracked } => {
                let Tracked { source, flow, namespace, marks } = tracked;
                (Self::OPEN, cookie, source.to_bytes(), flow.to_bytes(), namespace, marks)
            }
            Self::Close { cookie } => (Self::CLOSE, cookie, [0; 20], [0; 20], 0, Marks(0)),
            Self::Mark { cookie, marks } => (Self::MARK, cookie, [0; 20], [0; 20], 0, marks),
            Self::Add { source, amount } => (Self::ADD, amount, source.to_bytes(), [0; 20], 0, Marks(0)),
        };
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&operation.to_ne_bytes());
        bytes[8..16].copy_from_slice(&number.to_ne_bytes());
        bytes[16..36].copy_from_slice(&source);
        bytes[36..56].copy_from_slice(&flow);
        bytes[56..60].copy_from_slice(&namespace.to_ne_bytes());
        bytes[60..].copy_from_slice(&marks.0.to_ne_bytes());
        bytes
    }

    /// Nothing, if the frame is too short or of an operation that is not known here.
    #[inline(always)]
    pub fn decode(frame: &(impl Packet + ?Sized)) -> Option<Self> {
        let number = u64::from_ne_bytes(read(frame, 8)?);
        let source = SourceKey::from_bytes(read(frame, 16)?);
        let flow = FlowKey::from_bytes(read(frame, 36)?);
        let namespace = u32::from_ne_bytes(read(frame, 56)?);
        let marks = Marks(u32::from_ne_bytes(read(frame, 60)?));
        match u64::from_ne_bytes(read(frame, 0)?) {
            Self::OPEN => {
                Some(Self::Open { cookie: number, tracked: Tracked { source, flow, namespace, marks } })
            }
            Self::CLOSE => Some(Self::Close { cookie: number }),
            Self::MARK => Some(Self::Mark { cookie: number, marks }),
            Self::ADD => Some(Self::Add { source, amount: number }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Service, ServiceId};

    #[test]
    fn corrections_arrive_as_they_were_sent() {
        let address = Address::v4([10, 1, 2, 3]);
        let source = SourceKey::new(ServiceId::new(7), &Service::new(false, 32, 64), address);
        let flow = FlowKey::new(address, 40_000, ServiceId::new(7));
        let tracked = Tracked { source, flow, namespace: 9, marks: Marks(Marks::FOUND) };
        let corrections = [
            Correction::Open { cookie: u64::MAX, tracked },
            Correction::Close { cookie: 5 },
            Correction::Mark { cookie: 6, marks: Marks(Marks::SERVED) },
            Correction::Add { source, amount: 3_u64.wrapping_neg() },
        ];
        for correction in corrections {
            let bytes = correction.encode();
            assert_eq!(Correction::decode(bytes.as_slice()), Some(correction));
            assert_eq!(Correction::decode(&bytes[..Correction::LENGTH - 1]), None);
        }
        assert_eq!(Correction::decode([0; Correction::LENGTH].as_slice()), None);
    }

    #[test]
    fn a_handshake_at_two_services_belongs_to_neither() {
        let address = Address::v4([10, 1, 2, 3]);
        let source = |service| SourceKey::new(ServiceId::new(service), &Service::new(false, 32, 64), address);
        let mut opening = Opening::new(source(7));
        opening.begin_again(&source(7));
        assert_eq!(opening.source(), Some(source(7)), "a SYN that is sent again");
        opening.begin_again(&source(8));
        opening.begin_again(&source(7));
        assert_eq!(opening.source(), None);
    }

    #[test]
    fn what_the_client_has_closed_takes_no_place_unless_it_is_served() {
        let marks = Marks::default();
        assert!(marks.counts() && marks.is_evidence());
        let closed = marks.with(Marks::CLOSED_BY_CLIENT);
        assert!(!closed.counts() && closed.with(Marks::SERVED).counts());
        let found = marks.with(Marks::FOUND);
        assert!(found.counts() && !found.is_evidence());
    }

    #[test]
    fn a_count_tells_what_is_open_and_that_something_happened() {
        let add = |count: OpenCount, amount: u64| OpenCount::of_word(count.0.wrapping_add(amount));
        let two = add(add(OpenCount::default(), OpenCount::OPENED), OpenCount::OPENED);
        assert_eq!((two.open(), two), (2, OpenCount::new(2)));
        let one = add(two, OpenCount::CLOSED);
        assert_eq!(one.open(), 1);
        let again = add(one, OpenCount::OPENED);
        assert_eq!(again.open(), 2);
        assert_ne!(again, two, "one has come and gone");
        assert_eq!((again.exceeds(0), again.exceeds(2), again.exceeds(5)), (2, 0, -3));
        let below = add(OpenCount::default(), OpenCount::CLOSED);
        assert_eq!((below.open(), below.exceeds(0)), (0, -1));
        assert_eq!(add(below, OpenCount::OPENED).open(), 0, "and it comes right by itself");
    }
}
