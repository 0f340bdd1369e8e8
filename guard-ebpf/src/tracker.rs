//! Counting connections, as their sockets change state in any network namespace.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use guard_common::Address;
use guard_common::abi::{Correction, Flow, FlowKey, Home, Lost, Offence, OffenceKind, SourceKey, Tracked};
use guard_common::drops::Notes;
use guard_common::gcra::Word;
use guard_common::track::{self, Change};

use crate::maps::{CONNECTIONS, FLOWS, HOME, SOCKETS, lose};
use crate::notes::{Noted, thresholds};
use crate::now;
use crate::tables::Maps;
use crate::word::MapWord;

/// The one of several attempts that succeeds is the first, but for races.
const ATTEMPTS: u32 = 4;

/// `struct sock_common` of include/net/sock.h, as it is since Linux 3.13: BPF programs read it where the verifier knows the type.
mod offset {
    pub const DADDR: usize = 0;
    pub const DPORT: usize = 12;
    pub const NUM: usize = 14;
    pub const FAMILY: usize = 16;
    pub const NET: usize = 48;
    pub const V6_DADDR: usize = 56;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A socket in the kernel.
#[derive(Clone, Copy)]
pub struct Socket(*const u8);

impl Socket {
    /// # Safety
    /// `socket` is an argument of the tracepoint `inet_sock_set_state`, and the verifier knows it as such.
    #[inline(always)]
    pub unsafe fn new(socket: *const c_void) -> Self {
        Self(socket.cast())
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier checks each read against the kernel's type of the socket.
        unsafe { self.0.add(offset).cast::<T>().read() }
    }

    /// The same number that sock_diag(7) calls the cookie of the socket.
    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: the helper only reads the socket, but for the cookie that it gives it.
        unsafe { bpf_get_socket_cookie(self.0.cast_mut().cast()) }
    }

    /// Multipath TCP has a socket above those of TCP, which would be counted a second time.
    #[inline(always)]
    fn is_tcp(self) -> bool {
        // SAFETY: the helper only reads the socket.
        !unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) }.is_null()
    }

    /// The inode of its network namespace.
    #[inline(always)]
    fn namespace(self, home: &Home) -> Option<u32> {
        let inode = self.read::<*const u8>(offset::NET).wrapping_add(home.offset as usize);
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(inode.cast::<u32>()) }.ok()
    }

    /// IPv4 addresses that an IPv6 socket has are in mapped form in it, as in [`Address`].
    #[inline(always)]
    fn client(self) -> Option<Address> {
        match self.read::<u16>(offset::FAMILY) {
            AF_INET => Some(Address::v4(self.read::<u32>(offset::DADDR).to_ne_bytes())),
            AF_INET6 => {
                let (high, low) =
                    (self.read::<u64>(offset::V6_DADDR), self.read::<u64>(offset::V6_DADDR + 8));
                let number = (u128::from(u64::from_be(high)) << 64) | u128::from(u64::from_be(low));
                Some(Address::v6(number.to_be_bytes()))
            }
            _ => None,
        }
    }
}

/// Counts what a change of state means.
#[inline(always)]
pub fn changed(socket: Socket, from: i32, to: i32) {
    match track::change(from, to) {
        Some(Change::Opened) => opened(socket),
        Some(Change::Closed) => close(socket.cookie()),
        None => {}
    }
}

#[inline(always)]
fn opened(socket: Socket) {
    if !socket.is_tcp() {
        return;
    }
    let (Some(client), Some(home)) = (socket.client(), HOME.get(0)) else { return };
    let port = u16::from_be(socket.read::<u16>(offset::DPORT));
    let flow = FlowKey::new(client, port);
    let namespace = socket.namespace(home);
    let now = now();
    let seen = Noted.flow(&flow).and_then(|flow| flow.source_of_established(now));
    let source = match seen {
        Some(source) => source,
        // Another interface, or another host: what lives in a namespace that is not reached through guard has nothing to do with it.
        None if namespace != Some(home.namespace) => return,
        None => match track::source(&Maps, client, socket.read::<u16>(offset::NUM), || now) {
            Some(source) => source,
            None => return,
        },
    };
    let tracked = Tracked { source, flow, namespace: namespace.unwrap_or(0) };
    let Some(count) = open(socket.cookie(), &tracked) else { return };
    let threshold = thresholds(now).connections;
    if threshold != 0 && count > threshold {
        Noted.offence(Offence::new(OffenceKind::Connections, source, count, now, now));
    }
}

/// Corrects what is counted, for the agent.
#[inline(always)]
pub fn correct(correction: Correction) {
    match correction {
        Correction::Open { cookie, tracked } => {
            open(cookie, &tracked);
        }
        Correction::Close { cookie } => close(cookie),
        Correction::Add { source, amount } => {
            add(&source, amount);
        }
    }
}

/// Counts a connection. Returns how many its source has now; none if it was counted before, or there is no room.
#[inline(always)]
fn open(cookie: u64, tracked: &Tracked) -> Option<u64> {
    if let Err(error) = SOCKETS.insert(cookie, *tracked, u64::from(BPF_NOEXIST)) {
        const EXISTS: i32 = -17;
        if error != EXISTS {
            lose(Lost::Connection);
        }
        return None;
    }
    let _ = FLOWS.insert(tracked.flow, Flow::established(tracked.source), u64::from(BPF_ANY));
    let count = add(&tracked.source, 1);
    if count.is_none() {
        lose(Lost::Connection);
        let _ = SOCKETS.remove(cookie);
    }
    count
}

/// Counts a connection no longer.
#[inline(always)]
fn close(cookie: u64) {
    let Some(tracked) = SOCKETS.get_ptr(cookie) else { return };
    // SAFETY: the value was just looked up, and is never changed.
    let Tracked { source, flow, .. } = unsafe { *tracked };
    // Who removes it, counts.
    if SOCKETS.remove(cookie).is_ok() {
        let _ = FLOWS.remove(flow);
        add(&source, 1_u64.wrapping_neg());
    }
}

/// Adds to the count of a source. Returns what it is then; none if there is no room for the source.
///
/// The agent removes sources that have nothing open. It may do so between our look-up and our addition; then the sum is in a
/// value that is not in the table any longer, or is another source's by now: it is taken back and made again. (If the addition comes
/// first, the agent sees that it has removed a count that was not 0, and adds it again.)
#[inline(always)]
fn add(source: &SourceKey, amount: u64) -> Option<u64> {
    for _ in 0..ATTEMPTS {
        let Some(count) = CONNECTIONS.get_ptr_mut(source) else {
            let _ = CONNECTIONS.insert(source, 0, u64::from(BPF_NOEXIST));
            continue;
        };
        // SAFETY: the value was just looked up and stays readable for the run of the program; it is an aligned word.
        let word = unsafe { MapWord::new(count) };
        word.add(amount);
        match CONNECTIONS.get_ptr_mut(source) {
            Some(again) if again == count => return Some(word.load()),
            _ => word.add(amount.wrapping_neg()),
        }
    }
    None
}
