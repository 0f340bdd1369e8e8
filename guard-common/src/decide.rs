//! The order of the checks.

use core::borrow::Borrow;

use crate::abi::{Class, Limits, LimitsId, Rule, Service, ServiceId, SourceKey, Standing, State};
use crate::epoch::{Epoch, Slot};
use crate::gcra::{Rate, Word};
use crate::observe::{Limit, Observer, Step};
use crate::parse::{Headers, Kind, Protocol, destination, is_neighbour_discovery, parse};
use crate::tables::{MeterState, Tables};
use crate::{Action, Address, Packet, Reason, Verdict};

/// Decides about one packet. Of one that is a fragment ([`Headers::part`]), [`crate::fragments`] has the last word.
///
/// `clock` tells nanoseconds of the boot clock. It is read at most once, and only where a block with an end, a rate
/// or an unconfirmed policy needs it: reading it costs more than most packets' whole decision.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    headers: &mut Headers,
    tables: &T,
    clock: impl Fn() -> u64 + Copy,
    observer: &mut impl Observer,
) -> Verdict {
    let mut now = Now::new(clock);
    let state = tables.state();
    let slot = Epoch::from_word(state.epoch).live(|| now.get());
    observer.step(Step::Policy(slot));
    let kind = parse(packet, headers);
    observer.step(Step::Parsed(kind, *headers));
    let service = match kind {
        Ok(Kind::Segment(protocol)) => service_of(packet, tables, slot, protocol, headers, observer),
        Ok(Kind::OtherIp) => None,
        Ok(Kind::NotIp) => return of_no_service(Reason::NotIp, Action::Pass),
        Ok(Kind::Fragment) => return of_no_service(Reason::Fragment, Action::Pass),
        Err(_) => {
            let is_dropped = tables.enforces(slot)
                || is_host_blocked(tables, &state, &headers.source, 1, &mut now, observer);
            let action = if is_dropped { Action::Drop } else { Action::WouldDrop };
            return of_no_service(Reason::Malformed, action);
        }
    };
    let Some((id, service)) = service else {
        return unguarded(packet, tables, &state, headers, &mut now, observer);
    };
    let at = At { slot, id, service: &service, changes: state.changes };
    let opens_connection = headers.flags.opens_connection();
    let load = Load { packets: 1, bytes: || packet.length() as u64, opens_connection };
    let reason = guarded(load, tables, &at, headers.source, &mut now, observer);
    let action = match (reason.drops(), service.monitors()) {
        (false, _) => Action::Pass,
        (true, false) => Action::Drop,
        (true, true) => {
            // Its block has counted the packet if that is the reason.
            let count = u64::from(reason != Reason::Blocked);
            let is_dropped = is_host_blocked(tables, &state, &headers.source, count, &mut now, observer);
            if is_dropped { Action::Drop } else { Action::WouldDrop }
        }
    };
    if action != Action::Drop && headers.flags.opens_connection() {
        let source = SourceKey::new(id, &service, headers.source);
        tables.note_opening(headers, &source);
    }
    Verdict { action, reason, service: id }
}

/// The service of the port that a packet is for, unless the packet is for none of its destinations.
#[inline(always)]
fn service_of<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    slot: Slot,
    protocol: Protocol,
    headers: &Headers,
    observer: &mut impl Observer,
) -> Option<(ServiceId, Service)> {
    let id = tables.service_at(slot, protocol, headers.port);
    observer.step(Step::Service(id));
    let id = id?;
    let service = tables.service(slot, id)?;
    if service.has_destinations()
        && destination(packet, headers).is_some_and(|address| !tables.is_destination(slot, id, address))
    {
        observer.step(Step::Elsewhere(id));
        return None;
    }
    Some((id, service))
}

/// The service that a packet is for.
pub(crate) struct At<'a> {
    pub(crate) slot: Slot,
    pub(crate) id: ServiceId,
    pub(crate) service: &'a Service,
    /// [`State::changes`].
    pub(crate) changes: u64,
}

/// What is held against the limits of a source.
pub(crate) struct Load<B> {
    pub(crate) packets: u64,
    pub(crate) bytes: B,
    pub(crate) opens_connection: bool,
}

/// A packet for a guarded port.
#[inline(always)]
fn guarded<T: Tables, C: Fn() -> u64>(
    load: Load<impl Fn() -> u64>,
    tables: &T,
    at: &At<'_>,
    source: Address,
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> Reason {
    let rule = match admission(tables, at, source, now, observer) {
        Ok(rule) => rule,
        Err(reason) => return reason,
    };
    let Some(limits) = tables.limits(at.slot, rule.limits()) else { return Reason::Allowed };
    let limits: &Limits = limits.borrow();
    let source = SourceKey::new(at.id, at.service, source);
    observer.step(Step::Limits(*limits, source));
    match exceeded(load, tables, (rule.limits(), limits), &source, now, observer) {
        Some(reason) => reason,
        None => Reason::Allowed,
    }
}

/// The rule that lets a source in so far, or what is known of it without a limit.
#[inline(always)]
pub(crate) fn admission<T: Tables, C: Fn() -> u64>(
    tables: &T,
    at: &At<'_>,
    source: Address,
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> Result<Rule, Reason> {
    let recalled = tables.recall(source, at.slot, at.id, at.changes);
    let rule = match recalled.rule() {
        Some(rule) => Some(rule),
        None => tables.rule(at.slot, at.id, source),
    };
    observer.step(Step::Rule(rule));
    // The rules come before the blocks: a flood from forged addresses must die on a small hot table.
    let Some(rule) = rule else { return Err(Reason::NotAllowed) };
    if recalled == Standing::new(rule, false) {
        return Ok(rule);
    }
    match rule.class() {
        Class::Deny => return Err(Reason::Denied),
        Class::Trusted => return Err(Reason::Trusted),
        Class::Allow => {}
    }
    let is_blocked = is_blocked(tables, source, (Scope::Services, 1), now, observer);
    let standing = Standing::new(rule, is_blocked);
    if standing != recalled {
        tables.remember(source, at.slot, at.id, standing, at.changes);
    }
    if is_blocked { Err(Reason::Blocked) } else { Ok(rule) }
}

/// The first limit that the packet exceeds. Each limit before it has counted the packet.
///
/// The limits of connections come first: a flood of forged SYNs ends there, and takes nothing from what the client that it names has left
/// for the packets of its connections.
#[inline(always)]
pub(crate) fn exceeded<T: Tables, C: Fn() -> u64>(
    Load { packets: weight, bytes: length, opens_connection }: Load<impl Fn() -> u64>,
    tables: &T,
    (id, limits): (LimitsId, &Limits),
    source: &SourceKey,
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> Option<Reason> {
    // A source whose state finds no room does not get past its limits.
    let Some(MeterState { packets, bytes, connections, suspected_until }) = tables.meter(source) else {
        return Some(Reason::PacketRate);
    };
    observer.step(Step::Source { limits: id, suspected_until: suspected_until.load() });
    let mut time = 0;
    let mut within = |limit, rate: &Rate, word: &T::Word| {
        let units = || match limit {
            Limit::Bytes => length(),
            Limit::Packets => weight,
            Limit::Connections => 1,
        };
        let mut within = rate.is_unlimited();
        if !within {
            if time == 0 {
                time = tables.limiter_now().unwrap_or_else(|| now.get());
            }
            within = rate.admit(word, time, units());
        }
        observer.step(Step::Limit { limit, within });
        within
    };
    if opens_connection && !within(Limit::Connections, &limits.connections, &connections) {
        return Some(Reason::ConnectionRate);
    }
    if !within(Limit::Packets, &limits.packets, &packets) {
        return Some(Reason::PacketRate);
    }
    if !within(Limit::Bytes, &limits.bytes, &bytes) {
        return Some(Reason::ByteRate);
    }
    if !opens_connection || limits.max_connections == 0 {
        return None;
    }
    let open = tables.connections(source);
    observer.step(Step::Connections { open, limit: limits.max_connections });
    (open >= limits.max_connections).then_some(Reason::MaxConnections)
}

/// IP traffic of no service: only a block of the whole host concerns it.
///
/// Such a block spares neighbour discovery, as it spares ARP. A block of a prefix may contain the gateway, and without its answers this
/// host would have no IPv6 at all.
#[inline(always)]
fn unguarded<P: Packet + ?Sized, T: Tables, C: Fn() -> u64 + Copy>(
    packet: &P,
    tables: &T,
    state: &State,
    headers: &Headers,
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> Verdict {
    if state.host_blocks != 0
        && !is_neighbour_discovery(packet, headers)
        && is_host_blocked(tables, state, &headers.source, 1, now, observer)
    {
        return of_no_service(Reason::Blocked, Action::Drop);
    }
    of_no_service(Reason::Unguarded, Action::Pass)
}

/// Whether a block of the whole host names the source; if so, the block counts `count` packets.
#[inline(always)]
pub(crate) fn is_host_blocked<T: Tables, C: Fn() -> u64 + Copy>(
    tables: &T,
    state: &State,
    source: &Address,
    count: u64,
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> bool {
    state.host_blocks != 0
        && *source != Address::default()
        && names(tables, source, count, now.clock, observer)
}

/// A function of its own: three paths lead here, and few packets take one of them.
#[inline(never)]
fn names<T: Tables>(
    tables: &T,
    source: &Address,
    count: u64,
    clock: impl Fn() -> u64,
    observer: &mut impl Observer,
) -> bool {
    let mut now = Now::new(clock);
    is_blocked(tables, *source, (Scope::Host, count), &mut now, observer)
}

#[derive(Clone, Copy)]
enum Scope {
    Host,
    Services,
}

/// Whether a block of the address, or of a prefix around it, is in force; if so, so many packets are counted there.
#[inline(always)]
fn is_blocked<T: Tables, C: Fn() -> u64>(
    tables: &T,
    source: Address,
    (scope, count): (Scope, u64),
    now: &mut Now<C>,
    observer: &mut impl Observer,
) -> bool {
    for exact in [true, false] {
        let block = if exact { tables.block(source) } else { tables.block_around(source) };
        let Some(block) = block else { continue };
        let until = match scope {
            Scope::Host => block.host_until,
            Scope::Services => block.services_until,
        };
        if until.is_after(|| now.get()) {
            observer.step(Step::Block { exact, until });
            block.dropped.add(count);
            return true;
        }
    }
    false
}

#[inline(always)]
pub(crate) const fn of_no_service(reason: Reason, action: Action) -> Verdict {
    Verdict { action, reason, service: ServiceId::NONE }
}

/// The time, read when it is first asked for.
pub(crate) struct Now<C> {
    clock: C,
    /// 0 before: a plain number, so that the verifier need not follow two kinds of it.
    read: u64,
}

impl<C: Fn() -> u64> Now<C> {
    #[inline(always)]
    pub(crate) const fn new(clock: C) -> Self {
        Self { clock, read: 0 }
    }

    #[inline(always)]
    pub(crate) fn get(&mut self) -> u64 {
        if self.read == 0 {
            self.read = (self.clock)();
        }
        self.read
    }
}
