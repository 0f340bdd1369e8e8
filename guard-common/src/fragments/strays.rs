//! The bound of fragments of which nothing is known.
//!
//! Linux keeps them until their first one comes, or for 30 s (IPv6: 60 s), and no more than 4 MiB of them of each family
//! (`net.ipv4.ipfrag_high_thresh`). When that is used up, it takes none of anybody. Those that guard lets through on trust never
//! take more than a quarter: three quarters of the quarter at once, and the rest within the time that Linux waits.

use super::{Fates, Fragment, WAITS_V4, WAITS_V6};
use crate::abi::Owed;
use crate::gcra::Rate;

/// A quarter of what Linux keeps.
const ROOM: u64 = 1 << 20;
/// What the kernel keeps a fragment in, besides its bytes.
const OVERHEAD: u64 = 2048;
const SECOND: u64 = 1_000_000_000;

/// What of a source is its network: 24 bits of IPv4, 48 of IPv6.
const IPV4_MASK: [u8; 4] = [255, 255, 255, 0];
const IPV6_MASK: [u8; 16] = [255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Of all networks, and of one.
static ALL: [Rate; 2] = [bound(ROOM, WAITS_V4), bound(ROOM, WAITS_V6)];
static NETWORK: [Rate; 2] = [bound(ROOM / 3, WAITS_V4), bound(ROOM / 3, WAITS_V6)];

/// Never more than `room` bytes within `time`.
const fn bound(room: u64, time: u64) -> Rate {
    let at_once = room / 4 * 3;
    Rate::constant((room - at_once) / (time / SECOND), at_once)
}

#[inline(always)]
fn of_family(rates: &'static [Rate; 2], is_v4: bool) -> &'static Rate {
    let [v4, v6] = rates;
    if is_v4 { v4 } else { v6 }
}

/// Whether a fragment is within the bound. All networks come first: a flood from forged addresses makes no state for each.
#[inline(always)]
pub(super) fn admit<T: Fates>(tables: &T, fragment: &Fragment) -> bool {
    let (source, now) = (fragment.key.source(), fragment.now);
    let units = units(fragment.owed);
    let is_v4 = source.is_v4();
    let (all, network) = (of_family(&ALL, is_v4), of_family(&NETWORK, is_v4));
    let Some(strays) = tables.strays(is_v4) else { return false };
    if !all.has_room(&strays, now, units) {
        return false;
    }
    let Some(own) = tables.strays_of(source.masked(IPV4_MASK, IPV6_MASK)) else { return false };
    network.admit(&own, now, units) && all.admit(&strays, now, units)
}

/// Gives back what fragments took that have been paid for.
#[inline(always)]
pub(super) fn give_back<T: Fates>(tables: &T, fragment: &Fragment) {
    let source = fragment.key.source();
    let units = units(fragment.owed);
    let is_v4 = source.is_v4();
    if let Some(strays) = tables.strays(is_v4) {
        of_family(&ALL, is_v4).give_back(&strays, units);
    }
    if let Some(own) = tables.strays_of(source.masked(IPV4_MASK, IPV6_MASK)) {
        of_family(&NETWORK, is_v4).give_back(&own, units);
    }
}

/// What they take up in the kernel.
#[inline(always)]
fn units(fragments: Owed) -> u64 {
    fragments.bytes() + fragments.packets() * OVERHEAD
}
