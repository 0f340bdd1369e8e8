//! Holding the count in the kernel against the sockets that exist.
//!
//! Sockets and counts are read one after the other while connections come and go, so a difference means something only if it is
//! there twice: in this round and in the one before. A difference of numbers, which may be the same by chance, also needs a source of which no
//! connection came or went while they were read, and of which the same ones were there in the round before.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use guard_common::abi::{Correction, Marks, OpenCount, SourceKey, Tracked};

/// What one round has read, in this order.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What the kernel counts for each source.
    pub counts: HashMap<SourceKey, OpenCount>,
    /// The connections that are counted, by their sockets' cookies.
    pub tracked: HashMap<u64, Tracked>,
    /// What the kernel counted when these had been read.
    pub counts_after: HashMap<SourceKey, OpenCount>,
    /// The sockets that exist, by their cookies, as they would be counted.
    pub sockets: HashMap<u64, Tracked>,
    /// How many bytes the client has acknowledged, of connections that it has closed.
    pub acknowledged: HashMap<u64, u64>,
    pub room: Room,
    /// The network namespaces that they are from.
    pub namespaces: HashSet<u32>,
    pub others: Others,
}

/// For how many connections, and for how many sources that have some, the tables are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub connections: usize,
    pub sources: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { connections: usize::MAX, sources: usize::MAX }
    }
}

/// What became of network namespaces that were not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Others {
    /// They do not exist.
    #[default]
    Gone,
    /// There may be some that nobody can find. Those that were found before do not exist any longer.
    Hidden,
    /// Some could not be read this time.
    Unread,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    pub corrections: Vec<Correction>,
    /// How many connections were counted wrongly: those found at the start are not.
    pub drift: u64,
    /// How many connections exist for which the tables have no room.
    pub without_room: u64,
    /// Sources that had no connection for a while: their entries can go.
    pub idle: Vec<SourceKey>,
}

/// What was found in the round before.
#[derive(Debug, Default)]
pub struct Reconciler {
    begun: bool,
    /// Namespaces that were read at some time and have connections that are counted.
    known: HashSet<u32>,
    missing: HashSet<u64>,
    /// Those of them for which there was no room: known, and no drift when there is room again.
    without_room: HashSet<u64>,
    gone: HashSet<u64>,
    /// Connections that their client has closed, and that are counted as if it had not.
    left: HashSet<u64>,
    /// See [`Seen::acknowledged`].
    acknowledged: HashMap<u64, u64>,
    /// Connections that are counted under another source than they belong to now.
    moved: HashMap<u64, SourceKey>,
    differences: HashMap<SourceKey, Difference>,
    idle: HashSet<SourceKey>,
}

impl Repair {
    /// Leaves alone what exists: `exists` tells of a cookie whether it does, or may. What is counted anew elsewhere is no end.
    pub fn spare(&mut self, exists: impl Fn(u64) -> bool) {
        let opened = |correction: &Correction| match correction {
            Correction::Open { cookie, .. } => Some(*cookie),
            Correction::Close { .. } | Correction::Mark { .. } | Correction::Add { .. } => None,
        };
        let moved: HashSet<u64> = self.corrections.iter().filter_map(opened).collect();
        let before = self.corrections.len();
        self.corrections.retain(|correction| match correction {
            Correction::Close { cookie } => moved.contains(cookie) || !exists(*cookie),
            Correction::Open { .. } | Correction::Mark { .. } | Correction::Add { .. } => true,
        });
        self.drift -= (before - self.corrections.len()) as u64;
    }
}

impl Reconciler {
    /// Compares, and says what to correct.
    pub fn compare(&mut self, seen: &Seen) -> Repair {
        let mut repair = Repair::default();
        let missing: HashSet<u64> =
            seen.sockets.keys().filter(|cookie| !seen.tracked.contains_key(cookie)).copied().collect();
        // What is there when guard comes is no drift; and it is counted at once.
        let found =
            if self.begun { both(&missing, &self.missing) } else { missing.iter().copied().collect() };
        let (fitting, without_room) = apart(&found, seen);
        if self.begun {
            let is_new = |cookie: &&u64| !self.without_room.contains(cookie);
            repair.drift += fitting.iter().filter(is_new).count() as u64;
        }
        repair.without_room = without_room.len() as u64;
        let open = |cookie: &u64| {
            let tracked = *seen.sockets.get(cookie)?;
            Some(Correction::Open { cookie: *cookie, tracked })
        };
        repair.corrections.extend(fitting.iter().filter_map(open));

        let is_readable = |namespace: &u32| {
            seen.namespaces.contains(namespace)
                || match seen.others {
                    Others::Gone => true,
                    Others::Hidden => self.known.contains(namespace),
                    Others::Unread => false,
                }
        };
        let absent = seen.tracked.iter().filter(|(cookie, _)| !seen.sockets.contains_key(cookie));
        let gone = absent.filter(|(_, tracked)| is_readable(&tracked.namespace));
        let gone: HashSet<u64> = gone.map(|(cookie, _)| *cookie).collect();
        let closed = both(&gone, &self.gone);
        repair.drift += closed.len() as u64;
        repair.corrections.extend(closed.into_iter().map(|cookie| Correction::Close { cookie }));

        let moved = moved(seen);
        for (cookie, source) in &moved {
            // The policy has moved it: no drift.
            if self.moved.get(cookie) == Some(source) {
                repair.corrections.push(Correction::Close { cookie: *cookie });
                // How it came to be known does not change.
                let marks = seen.tracked.get(cookie).map(|tracked| tracked.marks);
                let socket = seen.sockets.get(cookie).zip(marks);
                repair.corrections.extend(socket.map(|(socket, marks)| {
                    let tracked = Tracked { marks, ..*socket };
                    Correction::Open { cookie: *cookie, tracked }
                }));
            }
        }

        let left = left(seen);
        let closed = both(&left, &self.left);
        repair.drift += closed.len() as u64;
        let marks = Marks(Marks::CLOSED_BY_CLIENT);
        repair.corrections.extend(closed.into_iter().map(|cookie| Correction::Mark { cookie, marks }));
        // Nothing was counted wrongly: until now it looked as if the client had gone.
        let marks = Marks(Marks::SERVED);
        let served = self.served(seen).into_iter();
        repair.corrections.extend(served.map(|cookie| Correction::Mark { cookie, marks }));

        let differences = differences(seen);
        for (source, difference) in &differences {
            if self.differences.get(source) == Some(difference) {
                let amount = difference.amount;
                repair.drift += amount.cast_signed().unsigned_abs();
                repair.corrections.push(Correction::Add { source: *source, amount });
            }
        }

        let idle: HashSet<SourceKey> =
            seen.counts.iter().filter(|(_, count)| count.open() == 0).map(|(source, _)| *source).collect();
        repair.idle = both(&idle, &self.idle);
        let mut known = std::mem::take(&mut self.known);
        let counted: HashSet<u32> = seen.tracked.values().map(|tracked| tracked.namespace).collect();
        known.retain(|namespace| counted.contains(namespace));
        known.extend(&seen.namespaces);
        let acknowledged = seen.acknowledged.clone();
        *self = Self {
            begun: true,
            known,
            missing,
            without_room,
            gone,
            left,
            acknowledged,
            moved,
            differences,
            idle,
        };
        repair
    }

    /// Connections that their client has closed, and on which it has acknowledged more since the round before: the server works for it.
    fn served(&self, seen: &Seen) -> Vec<u64> {
        let has_more =
            |(cookie, now): &(&u64, &u64)| self.acknowledged.get(cookie).is_some_and(|then| then < now);
        let mut served: Vec<u64> =
            seen.acknowledged.iter().filter(has_more).map(|(cookie, _)| *cookie).collect();
        served.sort_unstable();
        served
    }
}

/// How the count of a source differs from its connections that are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Difference {
    /// What is to be added to the count, in two's complement.
    amount: u64,
    /// The sum of their cookies, which no other connections have.
    cookies: u64,
}

fn differences(seen: &Seen) -> HashMap<SourceKey, Difference> {
    let mut all: HashMap<SourceKey, Difference> = HashMap::new();
    for (cookie, tracked) in seen.tracked.iter().filter(|(_, tracked)| tracked.marks.counts()) {
        let difference = all.entry(tracked.source).or_default();
        difference.amount = difference.amount.wrapping_add(1);
        difference.cookies = difference.cookies.wrapping_add(*cookie);
    }
    for source in seen.counts.keys() {
        all.entry(*source).or_default();
    }
    all.retain(|source, difference| {
        let count = seen.counts.get(source).copied().unwrap_or_default();
        let is_quiet = count == seen.counts_after.get(source).copied().unwrap_or_default();
        // As many connections as there are sockets fit into 32 bits.
        let tracked = u32::try_from(difference.amount).unwrap_or(u32::MAX);
        difference.amount = count.exceeds(tracked).wrapping_neg().cast_unsigned();
        is_quiet && difference.amount != 0
    });
    all
}

/// Those that the tables have room for, and the others.
fn apart(found: &[u64], seen: &Seen) -> (Vec<u64>, HashSet<u64>) {
    let mut connections = seen.room.connections.saturating_sub(seen.tracked.len());
    let mut sources: HashSet<&SourceKey> = seen.counts_after.keys().collect();
    let mut fits = |cookie: &u64| {
        let Some(Tracked { source, .. }) = seen.sockets.get(cookie) else { return false };
        if connections == 0 || !sources.contains(source) && sources.len() >= seen.room.sources {
            return false;
        }
        sources.insert(source);
        connections -= 1;
        true
    };
    let (fitting, others): (Vec<u64>, Vec<u64>) = found.iter().partition(|cookie| fits(cookie));
    (fitting, others.into_iter().collect())
}

/// Connections that their client has closed, and that are counted as if it had not.
fn left(seen: &Seen) -> HashSet<u64> {
    const CLOSED: u32 = Marks::CLOSED_BY_CLIENT;
    let is_left = |(cookie, tracked): &(&u64, &Tracked)| {
        !tracked.marks.has(CLOSED) && seen.sockets.get(cookie).is_some_and(|socket| socket.marks.has(CLOSED))
    };
    seen.tracked.iter().filter(is_left).map(|(cookie, _)| *cookie).collect()
}

fn moved(seen: &Seen) -> HashMap<u64, SourceKey> {
    let belongs = |(cookie, tracked): (&u64, &Tracked)| {
        let source = seen.sockets.get(cookie)?.source;
        (source != tracked.source).then_some((*cookie, source))
    };
    seen.tracked.iter().filter_map(belongs).collect()
}

fn both<T: Eq + Hash + Copy + Ord>(now: &HashSet<T>, before: &HashSet<T>) -> Vec<T> {
    let mut both: Vec<T> = now.intersection(before).copied().collect();
    both.sort_unstable();
    both
}

#[cfg(test)]
mod tests;
