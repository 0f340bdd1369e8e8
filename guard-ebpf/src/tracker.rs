//! Counting connections, as their sockets change state in any network namespace.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use guard_common::abi::{
    Correction, FlowKey, Home, Lost, Marks, Offence, OffenceKind, OpenCount, OpeningKey, Surplus, Tracked,
};
use guard_common::drops::Notes;
use guard_common::gcra::Word;
use guard_common::track::{self, Change};
use guard_common::{Address, Tables};

use crate::maps::{CONNECTIONS, FLOWS, HOME, OPENINGS, SOCKETS, SURPLUS, Sums, lose};
use crate::notes::{Noted, thresholds};
use crate::now;
use crate::tables::Maps;
use crate::word::{self, MapWord};

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
const IPPROTO_MPTCP: u16 = 262;

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

    /// What the connection of this socket of TCP is known by: the cookie, or with Multipath TCP the token that all its sockets have.
    #[inline(always)]
    fn connection(self, home: &Home) -> u64 {
        self.token_of_subflow(home).map_or_else(|| self.cookie(), track::multipath)
    }

    /// What ends with this socket. A subflow of Multipath TCP that ends leaves the connection, for which its server still works, as it is.
    #[inline(always)]
    fn ending(self) -> u64 {
        let token = HOME.get(0).and_then(|home| self.token_of_multipath(home));
        token.map_or_else(|| self.cookie(), track::multipath)
    }

    #[inline(always)]
    fn token_of_subflow(self, home: &Home) -> Option<u32> {
        if home.multipath_at == 0 || self.peek::<u8>(home.multipath_at)? == 0 {
            return None;
        }
        Self(self.peek(home.context_at)?).peek(home.subflow_token_at)
    }

    /// Of the socket above the subflows.
    #[inline(always)]
    fn token_of_multipath(self, home: &Home) -> Option<u32> {
        if home.multipath_at == 0 || self.peek::<u16>(home.protocol_at)? != IPPROTO_MPTCP {
            return None;
        }
        self.peek(home.token_at)
    }

    /// Reads where the verifier knows no type.
    #[inline(always)]
    fn peek<T>(self, offset: u32) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.0.wrapping_add(offset as usize).cast::<T>()) }.ok()
    }

    /// Multipath TCP has a socket above those of TCP. Its handshake is that of its first subflow.
    #[inline(always)]
    fn is_tcp(self) -> bool {
        // SAFETY: the helper only reads the socket.
        !unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) }.is_null()
    }

    /// The inode of its network namespace.
    #[inline(always)]
    fn namespace(self, home: &Home) -> Option<u32> {
        Self(self.read::<*const u8>(offset::NET)).peek(home.inode_at)
    }

    /// The number of the client's SYN: the next byte that is expected, less the SYN, which has a number of its own, and less the data that
    /// came with it (TCP Fast Open).
    #[inline(always)]
    fn sequence(self, home: &Home) -> Option<u32> {
        let (next, received) = (self.peek::<u32>(home.next_at)?, self.peek::<u64>(home.received_at)?);
        Some(next.wrapping_sub(1).wrapping_sub(received as u32))
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
        Some(Change::ClosedByClient) => mark(socket.ending(), Marks(Marks::CLOSED_BY_CLIENT)),
        Some(Change::Closed) => close(socket.ending()),
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
    let Some(sequence) = socket.sequence(home) else { return };
    let key = OpeningKey::new(client, port, sequence);
    // It did not come through guard: over another interface, from a container.
    // SAFETY: the value is copied; what another CPU may be writing to it is one word.
    let Some(opening) = OPENINGS.get_ptr(key).map(|opening| unsafe { *opening }) else { return };
    let _ = OPENINGS.remove(key);
    let now = now();
    let namespace = socket.namespace(home);
    let source = match opening.source() {
        Some(source) => source,
        // In a container the port may be another one: until the agent has looked it counts where it was begun first.
        None if namespace != Some(home.namespace) => opening.first_source(),
        None => match track::source(&Maps, client, socket.read::<u16>(offset::NUM), || now) {
            Some(source) => source,
            None => return,
        },
    };
    let flow = FlowKey::new(client, port, source.service());
    let tracked = Tracked { source, flow, namespace: namespace.unwrap_or(0), marks: Marks(0) };
    // A further subflow of a connection that is counted adds nothing.
    let cookie = socket.connection(home);
    let count = match open(cookie, &tracked) {
        Opened::As(count) => count,
        Opened::Known => return,
        Opened::NoRoom => NO_ROOM,
    };
    let most = track::most(&Maps, Maps.epoch().live(|| now), source.service(), client);
    if most != 0 && count > most {
        exceed(Surplus { cookie, no_room: (count == NO_ROOM).into() });
    }
    if count == NO_ROOM {
        return;
    }
    let threshold = thresholds(now).connections;
    if threshold != 0 && count > threshold {
        Noted.offence(Offence::new(OffenceKind::Connections, source, count, now, now));
    }
}

/// Tells the agent of a connection that it is to end.
#[inline(always)]
fn exceed(surplus: Surplus) {
    match SURPLUS.reserve(0) {
        Some(mut entry) => {
            entry.write(surplus);
            entry.submit(0);
        }
        None => lose(Lost::Surplus),
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
        Correction::Mark { cookie, marks } => mark(cookie, marks),
        Correction::Add { source, amount } => {
            add(&CONNECTIONS, &source, amount);
        }
    }
}

/// What became of a connection that was to be counted.
enum Opened {
    /// Its source has so many now.
    As(u64),
    Known,
    NoRoom,
}

/// More connections than any source can have.
const NO_ROOM: u64 = u64::MAX;

/// Counts a connection.
#[inline(always)]
fn open(cookie: u64, tracked: &Tracked) -> Opened {
    if let Err(error) = SOCKETS.insert(cookie, *tracked, u64::from(BPF_NOEXIST)) {
        const EXISTS: i32 = -17;
        if error == EXISTS {
            return Opened::Known;
        }
        lose(Lost::Connection);
        return Opened::NoRoom;
    }
    let amount = if tracked.marks.counts() { OpenCount::OPENED } else { 0 };
    let Some(count) = add(&CONNECTIONS, &tracked.source, amount) else {
        lose(Lost::Connection);
        let _ = SOCKETS.remove(cookie);
        return Opened::NoRoom;
    };
    // Packets of a connection that the packet path did not see come in prove nothing.
    if tracked.marks.is_evidence() {
        let _ = add(&FLOWS, &tracked.flow, 1);
    }
    Opened::As(OpenCount::of_word(count).open())
}

/// Sets a bit of what is known of a connection: it takes a place of its source from then on, or gives it back.
#[inline(always)]
fn mark(cookie: u64, marks: Marks) {
    let Some(tracked) = SOCKETS.get_ptr_mut(cookie) else { return };
    // SAFETY: the value was just looked up, and its source is never changed.
    let source = unsafe { (*tracked).source };
    let before = set(tracked, marks);
    let after = before.with(marks.0);
    if before.has(Marks::ENDED) || before.counts() == after.counts() {
        return;
    }
    add(&CONNECTIONS, &source, if after.counts() { OpenCount::OPENED } else { OpenCount::CLOSED });
}

/// Sets bits, and returns those that were set before.
#[inline(always)]
fn set(tracked: *mut Tracked, marks: Marks) -> Marks {
    // SAFETY: the value was just looked up and stays readable for the run of the program; the word is aligned.
    Marks(unsafe { word::fetch_or(&raw mut (*tracked).marks.0, marks.0) })
}

/// Counts a connection no longer.
#[inline(always)]
fn close(cookie: u64) {
    let Some(tracked) = SOCKETS.get_ptr_mut(cookie) else { return };
    // SAFETY: the value was just looked up, and these are never changed.
    let (source, flow) = unsafe { ((*tracked).source, (*tracked).flow) };
    // Who ends it, counts.
    let marks = set(tracked, Marks(Marks::ENDED));
    if marks.has(Marks::ENDED) || SOCKETS.remove(cookie).is_err() {
        return;
    }
    if marks.counts() {
        add(&CONNECTIONS, &source, OpenCount::CLOSED);
    }
    if !marks.is_evidence() {
        return;
    }
    // If the client opens another one with the same port at this very moment, that flow may be removed: then it is no evidence, and the
    // word is below nothing when that one ends.
    if add(&FLOWS, &flow, 1_u64.wrapping_neg()).is_some_and(|sum| sum.cast_signed() <= 0) {
        let _ = FLOWS.remove(flow);
    }
}

/// Adds to a word in a table. Returns what it is then; none if there is no room for it.
///
/// Words are removed that say that nothing is open: by the agent, or above. That may happen between our look-up and our addition; then the
/// sum is in a value that is not in the table any longer, or is another key's by now: it is taken back and made again. (If the addition
/// comes first, the agent sees that it has removed a count that was not 0, and adds it again.)
#[inline(always)]
fn add<K>(table: &Sums<K>, key: &K, amount: u64) -> Option<u64> {
    for _ in 0..ATTEMPTS {
        let Some(count) = table.get_ptr_mut(key) else {
            let _ = table.insert(key, 0, u64::from(BPF_NOEXIST));
            continue;
        };
        // SAFETY: the value was just looked up and stays readable for the run of the program; it is an aligned word.
        let word = unsafe { MapWord::new(count) };
        word.add(amount);
        match table.get_ptr_mut(key) {
            Some(again) if again == count => return Some(word.load()),
            _ => word.add(amount.wrapping_neg()),
        }
    }
    None
}
