//! Fragments, over the maps. Each step is a function of its own, one after the other and not within another: the stack that they share is small,
//! and no packet that is a whole one comes here.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, xdp_action, xdp_md};
use guard_common::abi::{Fate, FragmentKey};
use guard_common::epoch::Slot;
use guard_common::fragments::{self, FateState, Fates, Fragment, Kept, Next};
use guard_common::parse::{Headers, fragment_key};
use guard_common::{Address, Reason};

use crate::maps::{self, FRAGMENTS, FRAGMENTS_LET_IN, POLICIES, STRAYS, STRAYS_OF, in_hand, keep, kept};
use crate::notes::{self, Outcome};
use crate::packet::Frame;
use crate::tables::Maps;
use crate::word::MapWord;
use crate::{now, watch, weight};

/// A fragment on its way, on each CPU. In a map rather than on the stack: the verifier knows nothing of what is there, so it walks once through
/// what follows, and not once for each way that leads here.
pub struct InHand {
    outcome: Outcome,
    /// Where its IP header begins.
    network: u64,
    fragment: Fragment,
}

/// What becomes of a fragment.
#[inline(always)]
pub fn finish(ctx: *mut xdp_md, headers: &Headers, outcome: Outcome) -> xdp_action::Type {
    take(headers, outcome.word());
    if identify(ctx) != 0 {
        match look() {
            PAYS => {
                if admit() == PAYS {
                    charge();
                }
                spare();
                close();
            }
            LATER => {
                let is_blocked = is_blocked(1);
                later(is_blocked);
            }
            _ => {}
        }
    }
    count(ctx)
}

const LATER: u64 = 1;
const PAYS: u64 = 2;

/// Takes it in hand.
#[inline(never)]
fn take(headers: &Headers, outcome: u64) -> u64 {
    let outcome = Outcome::of_word(outcome);
    if let Some(hand) = in_hand() {
        hand.outcome = outcome;
        hand.network = headers.network() as u64;
        keep(outcome.sample(headers));
    }
    0
}

/// Finds out which packet it is of; 0 if it is no fragment.
#[inline(never)]
fn identify(ctx: *mut xdp_md) -> u64 {
    let (Some(hand), Some(packet)) = (in_hand(), kept()) else { return 0 };
    let frame = Frame::<false>::of(ctx);
    let Some(key) = fragment_key(&frame, (hand.network & 0xff) as usize) else { return 0 };
    hand.fragment = Fragment::new(key, packet.length, hand.outcome.part(), &Maps, now());
    1
}

/// Returns what is next.
#[inline(never)]
fn look() -> u64 {
    let Some(hand) = in_hand() else { return 0 };
    let Some(verdict) = hand.outcome.verdict() else { return 0 };
    match fragments::judge(&Maps, &mut hand.fragment, verdict) {
        Next::Judged => 0,
        Next::Later => LATER,
        Next::Pays(service) => {
            hand.outcome = hand.outcome.with_service(service);
            PAYS
        }
    }
}

/// Not 0: a block of the host names the source, and has counted so many packets.
#[inline(never)]
fn is_blocked(count: u64) -> u64 {
    in_hand().is_some_and(|hand| fragments::is_blocked(&Maps, &hand.fragment, count)).into()
}

#[inline(never)]
fn later(is_blocked: u64) -> u64 {
    if let Some(hand) = in_hand() {
        let verdict = fragments::later(&Maps, &hand.fragment, is_blocked != 0);
        hand.outcome = hand.outcome.with_verdict(verdict);
    }
    0
}

#[inline(never)]
fn admit() -> u64 {
    let Some(hand) = in_hand() else { return 0 };
    match fragments::admit(&Maps, &hand.fragment, hand.outcome.service()) {
        Ok(limits) => {
            hand.outcome = hand.outcome.with_limits(limits);
            PAYS
        }
        Err(verdict) => {
            hand.outcome = hand.outcome.with_verdict(verdict);
            0
        }
    }
}

#[inline(never)]
fn charge() -> u64 {
    if let Some(hand) = in_hand() {
        let (service, limits) = (hand.outcome.service(), hand.outcome.limits());
        let verdict = fragments::charge(&Maps, &hand.fragment, service, limits);
        hand.outcome = hand.outcome.with_verdict(verdict);
    }
    0
}

/// What a service spares since it only monitors, a block of the host drops.
#[inline(always)]
fn spare() {
    if let Some(hand) = in_hand()
        && hand.outcome.is_spared()
    {
        // Its block has counted the packet if that is the reason.
        let count = u64::from(!hand.outcome.is_of(Reason::Blocked));
        if is_blocked(count) != 0 {
            hand.outcome = hand.outcome.that_drops();
        }
    }
}

#[inline(never)]
fn close() -> u64 {
    if let Some(hand) = in_hand()
        && let Some(verdict) = hand.outcome.verdict()
    {
        fragments::close(&Maps, &hand.fragment, verdict);
    }
    0
}

/// Counts and notes it.
#[inline(always)]
fn count(ctx: *mut xdp_md) -> xdp_action::Type {
    let (Some(hand), Some(packet)) = (in_hand(), kept()) else { return xdp_action::XDP_DROP };
    let outcome = hand.outcome;
    maps::count(outcome.counter(), packet.length.into());
    if let Some(weight) = weight(outcome) {
        let outcome = outcome.with_weight(weight);
        outcome.amend(packet);
        notes::weigh(outcome.word());
        return watch::finish(ctx);
    }
    if outcome.has_passed() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

impl Fates for Maps {
    type Word = MapWord;

    #[inline(always)]
    fn generation(&self, slot: Slot) -> u64 {
        POLICIES.get(slot.index()).map_or(0, |policy| policy.generation)
    }

    #[inline(always)]
    fn fate(&self, kept: Kept, key: &FragmentKey) -> Option<FateState<MapWord>> {
        let fate = match kept {
            Kept::LetIn => FRAGMENTS_LET_IN.get_ptr_mut(key),
            Kept::Others => FRAGMENTS.get_ptr_mut(key),
        };
        // SAFETY: the value was just looked up and stays for the run of the program; its words are aligned.
        fate.map(|fate| unsafe { FateState { fate: *fate, owed: MapWord::new(addr_of_mut!((*fate).owed)) } })
    }

    #[inline(always)]
    fn remember(&self, kept: Kept, key: &FragmentKey, fate: Fate) {
        // A table that takes nothing more makes the later fragments unknown ones, which are bounded.
        let _ = match kept {
            Kept::LetIn => FRAGMENTS_LET_IN.insert(key, fate, u64::from(BPF_ANY)),
            Kept::Others => FRAGMENTS.insert(key, fate, u64::from(BPF_ANY)),
        };
    }

    #[inline(always)]
    fn forget(&self, kept: Kept, key: &FragmentKey) {
        let _ = match kept {
            Kept::LetIn => FRAGMENTS_LET_IN.remove(key),
            Kept::Others => FRAGMENTS.remove(key),
        };
    }

    #[inline(always)]
    fn strays_of(&self, network: Address) -> Option<MapWord> {
        let network = network.to_bytes();
        if STRAYS_OF.get_ptr(network).is_none() {
            let _ = STRAYS_OF.insert(network, 0, u64::from(BPF_NOEXIST));
        }
        // SAFETY: the value was just looked up and stays for the run of the program; its word is aligned.
        STRAYS_OF.get_ptr_mut(network).map(|word| unsafe { MapWord::new(word) })
    }

    #[inline(always)]
    fn strays(&self, is_v4: bool) -> Option<MapWord> {
        // SAFETY: an aligned word of a map value.
        STRAYS.get_ptr_mut(u32::from(!is_v4)).map(|word| unsafe { MapWord::new(word) })
    }
}
