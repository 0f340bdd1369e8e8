//! Holding the count in the kernel against the sockets that exist.
//!
//! Sockets and counts are read one after the other while connections come and go, so a difference means something only if it is
//! there twice: in this round and in the one before. A difference of numbers, which may be the same by chance, also needs a source of which no
//! connection came or went while they were read, and of which the same ones were there in the round before.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use guard_common::abi::{Correction, OpenCount, SourceKey, Tracked};

/// What one round has read, in this order.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What the kernel counts for each source.
    pub counts: HashMap<SourceKey, OpenCount>,
    /// The connections that are counted, by their sockets' cookies.
    pub tracked: HashMap<u64, Tracked>,
    /// What the kernel counted when these had been read.
    pub counts_after: HashMap<SourceKey, OpenCount>,
    /// The sockets that exist, by their cookies.
    pub sockets: HashMap<u64, Tracked>,
    /// The network namespaces that they are from.
    pub namespaces: HashSet<u32>,
    pub others: Others,
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
    /// Those of them, by their cookies, that should have been counted when they were opened.
    pub late: Vec<u64>,
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
    gone: HashSet<u64>,
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
            Correction::Close { .. } | Correction::Add { .. } => None,
        };
        let moved: HashSet<u64> = self.corrections.iter().filter_map(opened).collect();
        let before = self.corrections.len();
        self.corrections.retain(|correction| match correction {
            Correction::Close { cookie } => moved.contains(cookie) || !exists(*cookie),
            Correction::Open { .. } | Correction::Add { .. } => true,
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
        if self.begun {
            repair.drift += found.len() as u64;
            repair.late.clone_from(&found);
        }
        let open = |cookie: &u64| {
            seen.sockets.get(cookie).map(|tracked| Correction::Open { cookie: *cookie, tracked: *tracked })
        };
        repair.corrections.extend(found.iter().filter_map(open));

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
                repair.corrections.extend(open(cookie));
            }
        }

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
        *self = Self { begun: true, known, missing, gone, moved, differences, idle };
        repair
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
    for (cookie, tracked) in &seen.tracked {
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
mod tests {
    use super::*;
    use guard_common::Address;
    use guard_common::abi::{FlowKey, Service, ServiceId};

    const HOME: u32 = 3;

    fn tracked(host: u8) -> Tracked {
        let address = Address::v4([10, 0, 0, host]);
        let source = SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), address);
        Tracked { source, flow: FlowKey::new(address, 40_000, ServiceId::new(1)), namespace: HOME }
    }

    fn seen(counts: &[(u8, u32)], counted: &[(u64, u8)], sockets: &[(u64, u8)]) -> Seen {
        let by_cookie =
            |list: &[(u64, u8)]| list.iter().map(|(cookie, host)| (*cookie, tracked(*host))).collect();
        let counts: HashMap<_, _> =
            counts.iter().map(|(host, count)| (tracked(*host).source, OpenCount::new(*count))).collect();
        Seen {
            counts_after: counts.clone(),
            counts,
            tracked: by_cookie(counted),
            sockets: by_cookie(sockets),
            namespaces: HashSet::from([HOME]),
            others: Others::Gone,
        }
    }

    #[test]
    fn what_is_there_at_the_start_is_counted_at_once_and_is_no_drift() {
        let repair = Reconciler::default().compare(&seen(&[], &[], &[(7, 1)]));
        let open = Correction::Open { cookie: 7, tracked: tracked(1) };
        assert_eq!(repair, Repair { corrections: vec![open], ..Repair::default() });
    }

    #[test]
    fn a_difference_counts_when_it_is_there_twice() {
        let quiet = seen(&[(1, 1)], &[(7, 1)], &[(7, 1)]);
        let cases = [
            ("a socket that is not counted", seen(&[(1, 1)], &[(7, 1)], &[(7, 1), (8, 2)]), 1),
            ("a socket that is gone", seen(&[(1, 2)], &[(7, 1), (9, 1)], &[(7, 1)]), 1),
            ("a count too low", seen(&[(1, 0)], &[(7, 1)], &[(7, 1)]), 1),
            ("a count too high", seen(&[(1, 4)], &[(7, 1)], &[(7, 1)]), 3),
        ];
        for (name, wrong, drift) in cases {
            let mut reconciler = Reconciler::default();
            assert_eq!(reconciler.compare(&quiet), Repair::default(), "{name}");
            assert_eq!(reconciler.compare(&wrong), Repair::default(), "{name}: once");
            let repair = reconciler.compare(&wrong);
            assert_eq!((repair.drift, repair.corrections.len()), (drift, 1), "{name}: twice");
            let mut reconciler = Reconciler::default();
            for seen in [&quiet, &wrong, &quiet, &wrong] {
                assert_eq!(reconciler.compare(seen), Repair::default(), "{name}: on and off");
            }
        }
    }

    #[test]
    fn numbers_that_differ_while_connections_come_and_go_mean_nothing() {
        let mut reconciler = Reconciler::default();
        for cookie in 7..20 {
            // Two are counted, and one was there when they were read.
            let busy = seen(&[(1, 2)], &[(cookie, 1)], &[(cookie, 1)]);
            assert_eq!(reconciler.compare(&busy), Repair::default(), "{cookie}");
        }
    }

    /// They come and go within milliseconds, so one may be counted, and in no list.
    #[test]
    fn a_client_of_short_connections_is_not_counted_below_nothing() {
        let mut reconciler = Reconciler::default();
        for round in 1..20 {
            let word = |opened: u64, open: u64| OpenCount::of_word(opened << 32 | open);
            let of = |count| HashMap::from([(tracked(1).source, count)]);
            let seen = Seen {
                counts: of(word(100 * round, 1)),
                counts_after: of(word(100 * round + 7, 1)),
                ..seen(&[], &[], &[])
            };
            assert_eq!(reconciler.compare(&seen).corrections, [], "{round}");
        }
    }

    #[test]
    fn what_the_policy_has_moved_is_counted_where_it_belongs_and_is_no_drift() {
        let mut reconciler = Reconciler::default();
        let moved = seen(&[(1, 1)], &[(7, 1)], &[(7, 2)]);
        assert_eq!(reconciler.compare(&moved), Repair::default());
        let repair = reconciler.compare(&moved);
        let expected = [Correction::Close { cookie: 7 }, Correction::Open { cookie: 7, tracked: tracked(2) }];
        assert_eq!((repair.drift, repair.corrections.as_slice()), (0, expected.as_slice()));
        let mut spared = repair.clone();
        spared.spare(|_| true);
        assert_eq!(spared, repair, "it exists, and is moved all the same");
    }

    #[test]
    fn what_exists_is_spared() {
        let mut reconciler = Reconciler::default();
        let gone = seen(&[(1, 2)], &[(7, 1), (8, 1)], &[]);
        reconciler.compare(&gone);
        let mut repair = reconciler.compare(&gone);
        assert_eq!((repair.drift, repair.corrections.len()), (2, 2));
        repair.spare(|cookie| cookie == 7);
        assert_eq!((repair.drift, repair.corrections), (1, vec![Correction::Close { cookie: 8 }]));
    }

    #[test]
    fn nothing_is_gone_where_it_could_not_be_read() {
        let absent = seen(&[(1, 1)], &[(7, 1)], &[]);
        for (others, is_read, was_read, closes) in [
            (Others::Gone, false, false, true),
            (Others::Hidden, false, false, false),
            (Others::Hidden, false, true, true),
            (Others::Hidden, true, false, true),
            (Others::Unread, false, true, false),
            (Others::Unread, true, false, true),
        ] {
            let mut reconciler = Reconciler::default();
            if was_read {
                reconciler.compare(&seen(&[(1, 1)], &[(7, 1)], &[(7, 1)]));
            }
            let mut absent = Seen { others, ..absent.clone() };
            absent.namespaces.retain(|_| is_read);
            assert_eq!(reconciler.compare(&absent), Repair::default());
            let closed = reconciler.compare(&absent).corrections;
            assert_eq!(closed.len(), usize::from(closes), "{others:?}, {is_read}, {was_read}: {closed:?}");
        }
    }

    #[test]
    fn a_source_without_connections_is_forgotten_after_a_while() {
        let mut reconciler = Reconciler::default();
        let idle = seen(&[(1, 0)], &[], &[]);
        assert_eq!(reconciler.compare(&idle).idle, []);
        assert_eq!(reconciler.compare(&idle).idle, [tracked(1).source]);
    }
}
