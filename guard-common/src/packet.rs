//! Checked, copying reads of a frame.

/// No header is read past this offset, on either side. The verifier needs a bound on every offset into a
/// packet; a chain of headers that goes further is malformed for the kernel and the host alike. The first of several buffers
/// has room for that: 3,520 bytes where a page is one buffer.
pub const MAX_HEADER_OFFSET: usize = 0xbff;

/// A received frame, from its Ethernet header on, or from its IP header where its device has none.
///
/// A frame in several buffers offers only its first buffer to `copy`, while [`length`](Self::length)
/// counts them all.
pub trait Packet {
    /// Whether the first byte is that of an IP header: the device has no Ethernet header to hand over.
    const BEGINS_WITH_IP: bool = false;

    /// Length of the whole frame in bytes. Where a frame may have several buffers the kernel is to be asked for it, which takes a tenth of
    /// what an allowed packet costs.
    fn length(&self) -> usize;

    /// Length of the first buffer, which costs nothing; of a frame in one piece, its length.
    fn first_buffer(&self) -> usize {
        self.length()
    }

    /// Copies `N` bytes from `offset`, or `None` where the first buffer ends before. `offset` is at most
    /// [`MAX_HEADER_OFFSET`]: callers go through [`read`].
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Returns `offset`. In the kernel the verifier forgets here what it knows of the number: where many paths come together that
    /// differ only in it, they are walked once from here on, and not once for each.
    #[inline(always)]
    fn forget(offset: usize) -> usize {
        offset
    }
}

/// See [`Packet::forget`].
#[inline(always)]
pub fn forget<P: Packet + ?Sized>(_: &P, offset: usize) -> usize {
    P::forget(offset)
}

/// Copies `N` bytes from `offset`.
#[inline(always)]
pub fn read<const N: usize>(packet: &(impl Packet + ?Sized), offset: usize) -> Option<[u8; N]> {
    if offset > MAX_HEADER_OFFSET {
        return None;
    }
    packet.copy(offset)
}

/// A packet as devices without an Ethernet header hand it over: tun, WireGuard, ppp, ipip, sit.
pub struct WithoutEthernet<P>(pub P);

impl<P: Packet> Packet for WithoutEthernet<P> {
    const BEGINS_WITH_IP: bool = true;

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.length()
    }

    #[inline(always)]
    fn first_buffer(&self) -> usize {
        self.0.first_buffer()
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.copy(offset)
    }

    #[inline(always)]
    fn forget(offset: usize) -> usize {
        P::forget(offset)
    }
}

/// A frame in one piece of memory.
impl Packet for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
