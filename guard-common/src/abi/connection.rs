//! Connections: what the packet path notes of them, and what the tracker counts.

use super::SourceKey;
use crate::packet::read;
use crate::{Address, Packet};

/// The client's end of a TCP connection. Translation on this host (a published port) changes the other end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    address: [u8; 16],
    port: [u8; 2],
    padding: [u8; 2],
}

impl FlowKey {
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address: address.to_bytes(), port: port.to_be_bytes(), padding: [0; 2] }
    }

    pub const fn address(&self) -> Address {
        Address::v6(self.address)
    }

    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    #[inline(always)]
    fn from_bytes(bytes: [u8; 20]) -> Self {
        let [address @ .., p0, p1, _, _] = bytes;
        Self { address, port: [p0, p1], padding: [0; 2] }
    }

    fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes.split_at_mut(16).0.copy_from_slice(&self.address);
        bytes[16] = self.port[0];
        bytes[17] = self.port[1];
        bytes
    }
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// When its last SYN was let through, in nanoseconds of the monotonic clock.
    opened: u64,
    /// What it is counted under.
    source: SourceKey,
    state: u32,
}

impl Flow {
    const OPENING: u32 = 0;
    const ESTABLISHED: u32 = 1;
    /// A handshake takes no longer: Linux gives up its SYN-ACK after 63 s.
    const LONGEST_HANDSHAKE: u64 = 64_000_000_000;

    #[inline(always)]
    pub const fn opening(source: SourceKey, now: u64) -> Self {
        Self { opened: now, source, state: Self::OPENING }
    }

    #[inline(always)]
    pub const fn established(source: SourceKey) -> Self {
        Self { opened: 0, source, state: Self::ESTABLISHED }
    }

    /// Whether both ends have agreed: what comes from it was not made by somebody who only knows the address.
    #[inline(always)]
    pub const fn is_established(&self) -> bool {
        self.state == Self::ESTABLISHED
    }

    /// What a connection that is established at `now` belongs to: nothing, if the SYN is too old to be its own.
    #[inline(always)]
    pub const fn source_of_established(&self, now: u64) -> Option<SourceKey> {
        if self.is_established() || now.wrapping_sub(self.opened) > Self::LONGEST_HANDSHAKE {
            return None;
        }
        Some(self.source)
    }

    #[inline(always)]
    pub const fn source(&self) -> &SourceKey {
        &self.source
    }
}

/// Which network namespace is the host's, and how it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Home {
    /// The inode of the namespace that guard's interfaces are in.
    pub namespace: u32,
    /// Where that number lies in the kernel's `struct net`.
    pub offset: u32,
}

/// A connection that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tracked {
    pub source: SourceKey,
    pub flow: FlowKey,
    /// The inode of the network namespace that its socket is in; 0 if that could not be told.
    pub namespace: u32,
}

/// A correction of what is counted, which the agent hands to the program `guard_correct` as a frame:
/// operation (8 bytes), number (8), source (20), flow (20), namespace (4); numbers in the byte order of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// A socket is there that is not counted.
    Open { cookie: u64, tracked: Tracked },
    /// A socket is counted that is not there.
    Close { cookie: u64 },
    /// The count of a source is wrong by so many, in two's complement.
    Add { source: SourceKey, amount: u64 },
}

impl Correction {
    pub const LENGTH: usize = 60;
    const OPEN: u64 = 1;
    const CLOSE: u64 = 2;
    const ADD: u64 = 3;

    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let (operation, number, source, flow, namespace) = match self {
            Self::Open { cookie, tracked } => {
                (Self::OPEN, cookie, tracked.source.to_bytes(), tracked.flow.to_bytes(), tracked.namespace)
            }
            Self::Close { cookie } => (Self::CLOSE, cookie, [0; 20], [0; 20], 0),
            Self::Add { source, amount } => (Self::ADD, amount, source.to_bytes(), [0; 20], 0),
        };
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&operation.to_ne_bytes());
        bytes[8..16].copy_from_slice(&number.to_ne_bytes());
        bytes[16..36].copy_from_slice(&source);
        bytes[36..56].copy_from_slice(&flow);
        bytes[56..].copy_from_slice(&namespace.to_ne_bytes());
        bytes
    }

    /// Nothing, if the frame is too short or of an operation that is not known here.
    #[inline(always)]
    pub fn decode(frame: &(impl Packet + ?Sized)) -> Option<Self> {
        let number = u64::from_ne_bytes(read(frame, 8)?);
        let source = SourceKey::from_bytes(read(frame, 16)?);
        let flow = FlowKey::from_bytes(read(frame, 36)?);
        let namespace = u32::from_ne_bytes(read(frame, 56)?);
        match u64::from_ne_bytes(read(frame, 0)?) {
            Self::OPEN => Some(Self::Open { cookie: number, tracked: Tracked { source, flow, namespace } }),
            Self::CLOSE => Some(Self::Close { cookie: number }),
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
        let tracked = Tracked { source, flow: FlowKey::new(address, 40_000), namespace: 9 };
        let corrections = [
            Correction::Open { cookie: u64::MAX, tracked },
            Correction::Close { cookie: 5 },
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
    fn an_old_syn_is_not_that_of_a_new_connection() {
        let address = Address::v4([10, 1, 2, 3]);
        let source = SourceKey::new(ServiceId::new(7), &Service::new(false, 32, 64), address);
        let flow = Flow::opening(source, 1_000);
        assert_eq!(flow.source_of_established(1_000 + 64_000_000_000), Some(source));
        assert_eq!(flow.source_of_established(1_001 + 64_000_000_000), None);
        assert_eq!(Flow::established(source).source_of_established(0), None);
    }
}
