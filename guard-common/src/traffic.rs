//! What each source sends, counted only while somebody wants to know.
//!
//! The agent says until when ([`is_wanted`]), and says so again every few seconds: if it dies, the packet path stops to count by
//! itself.
//!
//! Drops count as they are looked into (see [`crate::drops`]): past some hundred a second and CPU one stands for many, so that a flood
//! does not pay for it.

use crate::abi::Sample;
use crate::gcra::Word;
use crate::parse::{TCP, TcpFlags};

/// A [`crate::abi::Traffic`] in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrafficState<W> {
    pub packets: W,
    pub bytes: W,
    pub openings: W,
    pub dropped: W,
}

/// Whether traffic is counted until `until` (nanoseconds of the boot clock; 0: not at all). What is over is put out, so that it is not
/// asked for again.
#[inline(always)]
pub fn is_wanted(until: &impl Word, now: u64) -> bool {
    let end = until.load();
    if now < end {
        return true;
    }
    // Not if the agent has put it off meanwhile.
    let _ = until.compare_exchange(end, 0);
    false
}

/// Counts a packet, which may stand for several.
#[inline(always)]
pub fn count<W: Word>(traffic: &TrafficState<W>, packet: &Sample) {
    traffic.packets.add(packet.packets);
    traffic.bytes.add(packet.packets.wrapping_mul(packet.length as u64));
    if packet.protocol == TCP && TcpFlags(packet.flags).opens_connection() {
        traffic.openings.add(packet.packets);
    }
    if packet.reason().is_some_and(|reason| reason.drops()) {
        traffic.dropped.add(packet.packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use crate::plain::Plain;

    #[test]
    fn counting_ends_by_itself() {
        let until = Plain::new(100);
        assert!(is_wanted(&until, 99));
        assert_eq!(until.load(), 100);
        assert!(!is_wanted(&until, 100));
        assert_eq!(until.load(), 0);
        assert!(!is_wanted(&until, 101));
    }

    #[test]
    fn each_packet_counts_for_what_it_is() {
        const UDP: u8 = 17;
        let (syn, ack) = (TcpFlags::SYN.0, TcpFlags::ACK.0);
        let cases = [
            ("a packet", Reason::Allowed, TCP, ack, 1, [1, 100, 0, 0]),
            ("an opening", Reason::Allowed, TCP, syn, 1, [1, 100, 1, 0]),
            ("an answer", Reason::Allowed, TCP, syn | ack, 1, [1, 100, 0, 0]),
            ("a datagram", Reason::Trusted, UDP, syn, 1, [1, 100, 0, 0]),
            ("drops", Reason::PacketRate, TCP, ack, 512, [512, 51_200, 0, 512]),
            ("openings that are dropped", Reason::NotAllowed, TCP, syn, 2, [2, 200, 2, 2]),
        ];
        for (name, reason, protocol, flags, packets, expected) in cases {
            let traffic = TrafficState::<Plain>::default();
            let packet =
                Sample { reason: reason as u8, protocol, flags, packets, length: 100, ..Sample::default() };
            count(&traffic, &packet);
            let TrafficState { packets, bytes, openings, dropped } = traffic;
            assert_eq!([packets, bytes, openings, dropped].map(|word| word.load()), expected, "{name}");
        }
    }
}
