//! Fragments: the later ones get the fate of the first one, which alone has ports.
//!
//! ```text
//! first ──> decide ──> its verdict is remembered
//!                         let in by a service: it pays for those that came before it
//! later ──> fate known ── let in: charged to the same limits, blocks apply
//!       │              ├─ dropped: dropped for the same reason
//!       │              └─ unguarded: passes, unless its host is blocked
//!       └─> not known ─── passes within a bound of each network and of all, unless its host is blocked
//! ```
//!
//! Fates are in two tables, so that strangers drive no client's out: [`Kept::LetIn`] has those that a service let in, [`Kept::Others`] all others
//! and what waits for its first fragment. Linux forgets the parts of a packet after some time; so do these tables.
//!
//! The first fragment that Linux has is the one that counts: it ignores or discards a second one. So a fate that a service gave is not
//! replaced by one of another port.

mod strays;

use core::borrow::Borrow;

use crate::abi::{Fate, FragmentKey, LimitsId, Owed, Service, ServiceId, SourceKey, State};
use crate::decide::{At, Load, Now, admission, exceeded, is_host_blocked, of_no_service};
use crate::epoch::{Epoch, Slot};
use crate::gcra::Word;
use crate::parse::{Headers, Part, fragment_key};
use crate::{Action, Address, Packet, Reason, Tables, Verdict};

/// How long Linux waits for the rest of a packet (`net.ipv4.ipfrag_time`, `net.ipv6.ip6frag_time`), and a second, since it sees a fragment later.
const SECOND: u64 = 1_000_000_000;
const WAITS_V4: u64 = 31 * SECOND;
const WAITS_V6: u64 = 61 * SECOND;

/// Where a fate is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Of first fragments that a service let in.
    LetIn,
    /// Of all other first fragments, and of those that have not come yet.
    Others,
}

/// What is remembered of fragments: BPF maps in the kernel, plain memory elsewhere. Either table may forget.
pub trait Fates {
    /// How a shared word of state is reached.
    type Word: Word;

    /// The number of the policy in a slot.
    fn generation(&self, slot: Slot) -> u64;

    fn fate(&self, kept: Kept, key: &FragmentKey) -> Option<FateState<Self::Word>>;

    /// Remembers a fate in place of any other.
    fn remember(&self, kept: Kept, key: &FragmentKey, fate: Fate);

    fn forget(&self, kept: Kept, key: &FragmentKey);

    /// The bound of fragments of which nothing is known, from one network; `None` if there is no room for its state.
    fn strays_of(&self, network: Address) -> Option<Self::Word>;

    /// The same of all networks of a family.
    fn strays(&self, is_v4: bool) -> Option<Self::Word>;
}

/// A [`Fate`] in place.
#[derive(Clone, Copy, Debug)]
pub struct FateState<W> {
    pub fate: Fate,
    /// [`Fate::owed`].
    pub owed: W,
}

/// A fragment on its way, and when that is.
///
/// What becomes of it is decided in the steps of [`finish`]. They are functions of their own for the kernel, whose stack has no room for more
/// than one of them; and what they share is here and not on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    key: FragmentKey,
    part: Part,
    now: u64,
    state: State,
    slot: Slot,
    generation: u32,
    /// What is held against the limits of its source: itself, or what came before the first one.
    owed: Owed,
}

/// What is next for a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the verdict is the last word.
    Judged,
    /// [`later`].
    Later,
    /// [`admit`] and [`charge`], of this service, and [`close`].
    Pays(ServiceId),
}

/// The last word on a frame for which [`decide`](crate::decide()) has this verdict.
pub fn finish(
    packet: &(impl Packet + ?Sized),
    headers: &Headers,
    tables: &(impl Tables + Fates),
    verdict: Verdict,
    now: u64,
) -> Verdict {
    if headers.part == Part::WHOLE {
        return verdict;
    }
    let Some(key) = fragment_key(packet, headers.network()) else { return verdict };
    let mut fragment = Fragment::new(key, headers.length, headers.part, tables, now);
    match judge(tables, &mut fragment, verdict) {
        Next::Judged => verdict,
        Next::Later => later(tables, &fragment, is_blocked(tables, &fragment, 1)),
        Next::Pays(service) => {
            let admitted = admit(tables, &fragment, service);
            let charged =
                admitted.map_or_else(|verdict| verdict, |limits| charge(tables, &fragment, service, limits));
            let is_spared = charged.action == Action::WouldDrop;
            // Its block has counted the packet if that is the reason.
            let count = u64::from(charged.reason != Reason::Blocked);
            let charged = charged.unless(is_spared && is_blocked(tables, &fragment, count));
            close(tables, &fragment, charged);
            charged
        }
    }
}

impl Verdict {
    /// A block of the host drops what a service only watches.
    #[inline(always)]
    #[must_use]
    pub fn unless(self, is_blocked: bool) -> Self {
        let action = if is_blocked && self.reason.drops() { Action::Drop } else { self.action };
        Self { action, ..self }
    }
}

impl Fragment {
    #[inline(always)]
    pub fn new<T: Tables + Fates>(key: FragmentKey, length: u32, part: Part, tables: &T, now: u64) -> Self {
        let state = tables.state();
        let slot = Epoch::from_word(state.epoch).live(|| now);
        let generation = tables.generation(slot) as u32;
        Self { key, part, now, state, slot, generation, owed: Owed::one(length) }
    }

    #[inline(always)]
    fn is_in_time(&self, fate: &Fate) -> bool {
        fate.until > self.now
    }

    /// Until when Linux waits.
    #[inline(always)]
    fn until(&self) -> u64 {
        self.now + if self.key.source().is_v4() { WAITS_V4 } else { WAITS_V6 }
    }
}

/// Judges a fragment for which [`decide`](crate::decide()) has this verdict.
#[inline(always)]
pub fn judge<T: Tables + Fates>(tables: &T, fragment: &mut Fragment, verdict: Verdict) -> Next {
    if fragment.part == Part::LATER {
        return match let_in(tables, fragment) {
            Some(first) => Next::Pays(first.service),
            None => Next::Later,
        };
    }
    if is_let_in(verdict) {
        let owed = owed(tables, fragment);
        if owed != Owed::default() {
            fragment.owed = owed;
            return Next::Pays(verdict.service);
        }
    }
    note(tables, fragment, verdict);
    Next::Judged
}

/// Whether the service still lets the source in, and with which limits. What it spares since it only monitors, a block of the host may drop.
#[inline(always)]
pub fn admit<T: Tables>(tables: &T, fragment: &Fragment, id: ServiceId) -> Result<LimitsId, Verdict> {
    let Fragment { slot, .. } = *fragment;
    let Some(service) = tables.service(slot, id) else {
        return Err(of_no_service(Reason::Fragment, Action::Pass));
    };
    let at = At { slot, id, service: &service, changes: fragment.state.changes };
    let mut now = Now::new(|| fragment.now);
    match admission(tables, &at, fragment.key.source(), &mut now, &mut ()) {
        Ok(rule) => Ok(rule.limits()),
        Err(reason) => Err(of_service(id, &service, reason)),
    }
}

/// Charges the source for a fragment.
#[inline(always)]
pub fn charge<T: Tables>(tables: &T, fragment: &Fragment, id: ServiceId, limits: LimitsId) -> Verdict {
    let Fragment { slot, owed, .. } = *fragment;
    let Some(service) = tables.service(slot, id) else {
        return of_no_service(Reason::Fragment, Action::Pass);
    };
    let Some(of_source) = tables.limits(slot, limits) else {
        return of_service(id, &service, Reason::Allowed);
    };
    let source = SourceKey::new(id, &service, fragment.key.source());
    let load = Load { packets: owed.packets(), bytes: || owed.bytes(), opens_connection: false };
    let mut now = Now::new(|| fragment.now);
    let over = exceeded(load, tables, (limits, of_source.borrow()), &source, &mut now, &mut ());
    of_service(id, &service, over.unwrap_or(Reason::Allowed))
}

#[inline(always)]
const fn of_service(id: ServiceId, service: &Service, reason: Reason) -> Verdict {
    let action = match (reason.drops(), service.monitors()) {
        (false, _) => Action::Pass,
        (true, false) => Action::Drop,
        (true, true) => Action::WouldDrop,
    };
    Verdict { action, reason, service: id }
}

/// Remembers what became of a first fragment that was charged for those before it.
#[inline(always)]
pub fn close<T: Tables + Fates>(tables: &T, fragment: &Fragment, verdict: Verdict) {
    if fragment.part == Part::LATER {
        return;
    }
    if !verdict.reason.drops() {
        settle(tables, fragment);
    }
    note(tables, fragment, verdict);
}

/// A later fragment whose first one no service let in, or is not known. `is_blocked` is the word of [`is_blocked`].
#[inline(always)]
pub fn later<T: Tables + Fates>(tables: &T, fragment: &Fragment, is_blocked: bool) -> Verdict {
    let known = waiting(tables, fragment);
    let first = known.as_ref().filter(|known| known.fate.generation == fragment.generation);
    let first = first.and_then(|known| known.fate.verdict());
    match first {
        Some(first) if first.reason.drops() => first.unless(is_blocked),
        _ if is_blocked => of_no_service(Reason::Blocked, Action::Drop),
        Some(_) => of_no_service(Reason::Fragment, Action::Pass),
        None if strays::admit(tables, fragment) => {
            owe(tables, fragment, known);
            of_no_service(Reason::Fragment, Action::Pass)
        }
        None => {
            let action = if tables.enforces(fragment.slot) { Action::Drop } else { Action::WouldDrop };
            of_no_service(Reason::FragmentRate, action)
        }
    }
}

/// Whether a block of the host names the source; if so, the block counts `count` packets.
#[inline(always)]
pub fn is_blocked<T: Tables>(tables: &T, fragment: &Fragment, count: u64) -> bool {
    let mut now = Now::new(|| fragment.now);
    is_host_blocked(tables, &fragment.state, &fragment.key.source(), count, &mut now, &mut ())
}

/// What a service said of the first fragment, if it let it in and the policy is the same.
#[inline(always)]
fn let_in<T: Fates>(tables: &T, fragment: &Fragment) -> Option<Verdict> {
    let FateState { fate, .. } = tables.fate(Kept::LetIn, &fragment.key)?;
    let holds = fragment.is_in_time(&fate) && fate.generation == fragment.generation;
    if holds { fate.verdict() } else { None }
}

#[inline(always)]
fn is_let_in(verdict: Verdict) -> bool {
    verdict.service != ServiceId::NONE && !verdict.reason.drops()
}

#[inline(always)]
fn waiting<T: Fates>(tables: &T, fragment: &Fragment) -> Option<FateState<T::Word>> {
    tables.fate(Kept::Others, &fragment.key).filter(|waiting| fragment.is_in_time(&waiting.fate))
}

/// What was let through before the first fragment came.
#[inline(always)]
fn owed<T: Fates>(tables: &T, fragment: &Fragment) -> Owed {
    Owed::of_word(waiting(tables, fragment).map_or(0, |waiting| waiting.owed.load()))
}

/// Notes that a fragment was let through before its first one.
#[inline(always)]
fn owe<T: Fates>(tables: &T, fragment: &Fragment, known: Option<FateState<T::Word>>) {
    let owed = fragment.owed.word();
    match known {
        Some(known) => known.owed.add(owed),
        None => {
            let fate = Fate { until: fragment.until(), owed, ..Fate::default() };
            tables.remember(Kept::Others, &fragment.key, fate);
        }
    }
}

/// What was owed is paid: it was within the limits of a service, so it is no longer held against those of which nothing is known.
#[inline(always)]
fn settle<T: Fates>(tables: &T, fragment: &Fragment) {
    if let Some(waiting) = waiting(tables, fragment) {
        waiting.owed.add(fragment.owed.word().wrapping_neg());
        strays::give_back(tables, fragment);
    }
}

/// Remembers what became of a first fragment.
#[inline(always)]
fn note<T: Fates>(tables: &T, fragment: &Fragment, verdict: Verdict) {
    let before = let_in(tables, fragment);
    if !verdict.reason.drops() && before.is_some_and(|before| before.service != verdict.service) {
        return;
    }
    let fate =
        Fate { until: fragment.until(), verdict: verdict.word(), generation: fragment.generation, owed: 0 };
    if is_let_in(verdict) {
        tables.remember(Kept::LetIn, &fragment.key, fate);
        return;
    }
    if before.is_some() {
        tables.forget(Kept::LetIn, &fragment.key);
    }
    let owed = owed(tables, fragment).word();
    tables.remember(Kept::Others, &fragment.key, Fate { owed, ..fate });
}
