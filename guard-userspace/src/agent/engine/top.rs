//! Who sends how much at this moment, from two looks at the kernel's counts.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use guard_common::abi::{SourceKey, Traffic};
use guard_common::gcra::Rate;
use guard_common::{Address, Tables};

use super::{Engine, lock};
use crate::agent::CounterStatus;
use crate::agent::top::{CounterRate, Sort, SourceRate, Top, TopQuery};
use crate::datapath::boot_now;
use crate::datapath::live::Live;

/// The kernel counts for so long after somebody has asked.
const LEASE: Duration = Duration::from_secs(10);
/// Looks are no closer than this, however many ask.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// A look that is older tells nothing of this moment.
const LONGEST: Duration = Duration::from_secs(5);

/// The last two looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    before: Option<Look>,
    last: Option<Look>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    traffic: HashMap<SourceKey, Traffic>,
    counters: Vec<CounterStatus>,
}

impl Looks {
    fn add(&mut self, look: Look) {
        self.before = self.last.replace(look).filter(|before| before.at.elapsed() < LONGEST);
    }

    fn is_due(&self) -> bool {
        self.last.as_ref().is_none_or(|last| last.at.elapsed() >= BETWEEN_LOOKS)
    }
}

impl Engine {
    /// Who sends how much. The kernel counts it from the first question on, for as long as somebody asks: the first answer has no rates.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn top(&self, query: &TopQuery) -> Result<Top> {
        self.maps.count_traffic(LEASE)?;
        let status = self.status()?;
        let mut looks = lock(&self.looks);
        if looks.is_due() {
            let traffic = self.maps.traffic()?.into_iter().collect();
            looks.add(Look { at: Instant::now(), traffic, counters: status.counters.clone() });
        }
        let (Some(before), Some(last)) = (&looks.before, &looks.last) else {
            return Ok(Top {
                status,
                seconds: 0.0,
                counters: Vec::new(),
                source_count: 0,
                sources: Vec::new(),
            });
        };
        let seconds = last.at.duration_since(before.at).as_secs_f64();
        let counters = counter_rates(before, last, seconds);
        let open: HashMap<SourceKey, u64> =
            self.maps.connections()?.into_iter().filter(|(_, open)| *open > 0).collect();
        let mut rates = source_rates(before, last, &open, seconds);
        drop(looks);
        rates.retain(|(key, _)| query.within.is_none_or(|net| net.contains(&IpAddr::from(key.address()))));
        let source_count = rates.len();
        let services = self.services_by_id();
        // What takes look-ups is asked for those that may be shown; to sort by it takes more of them.
        if query.sort == Sort::Limit {
            keep_busiest(&mut rates);
            rates.iter_mut().for_each(|(key, rate)| rate.limit_used = self.limit_used(key, rate.connections));
        }
        rates.sort_by(|(_, one), (_, other)| {
            query.sort.of(other).total_cmp(&query.sort.of(one)).then(one.source.cmp(&other.source))
        });
        rates.truncate(query.count.min(TopQuery::MOST));
        let live = Live(&self.maps);
        let now = boot_now();
        let sources = rates.into_iter().map(|(key, rate)| SourceRate {
            source: self.maps.source_net(&key),
            service: services.get(&key.service()).cloned().unwrap_or_default(),
            limit_used: self.limit_used(&key, rate.connections),
            blocked: is_blocked(&live, key.address(), now),
            ..rate
        });
        Ok(Top { status, seconds, counters, source_count, sources: sources.collect() })
    }

    /// Of the limit that has least left.
    fn limit_used(&self, key: &SourceKey, open: u64) -> Option<f64> {
        let live = Live(&self.maps);
        let now = live.limiter_now().unwrap_or_else(boot_now);
        let slot = live.epoch().live(boot_now);
        let rule = live.rule(slot, key.service(), key.address())?;
        let limits = *live.limits(slot, rule.limits())?.borrow();
        let meter = live.meter(key)?;
        let rate = |rate: Rate, arrival: u64| {
            let most = rate.left(0, now);
            (!rate.is_unlimited() && most > 0).then(|| 1.0 - rate.left(arrival, now) as f64 / most as f64)
        };
        let connections =
            (limits.max_connections > 0).then(|| (open as f64 / limits.max_connections as f64).min(1.0));
        [
            rate(limits.packets, meter.packets.0),
            rate(limits.bytes, meter.bytes.0),
            rate(limits.connections, meter.connections.0),
            connections,
        ]
        .into_iter()
        .flatten()
        .reduce(f64::max)
    }
}

pub(super) fn is_blocked(live: &Live<'_>, address: Address, now: u64) -> bool {
    let blocks = [live.block(address), live.block_around(address)];
    blocks.into_iter().flatten().any(|block| block.services_until.max(block.host_until).is_after(|| now))
}

fn counter_rates(before: &Look, last: &Look, seconds: f64) -> Vec<CounterRate> {
    let key =
        |counter: &CounterStatus| (counter.service.clone(), counter.verdict.clone(), counter.reason.clone());
    let known: HashMap<_, _> = before.counters.iter().map(|counter| (key(counter), counter)).collect();
    let rate = |counter: &CounterStatus| {
        let (packets, bytes) = known.get(&key(counter)).map_or((0, 0), |known| (known.packets, known.bytes));
        let (packets, bytes) = (counter.packets.saturating_sub(packets), counter.bytes.saturating_sub(bytes));
        let (service, verdict, reason) = key(counter);
        (packets > 0).then(|| CounterRate {
            service,
            verdict,
            reason,
            packets_per_second: packets as f64 / seconds,
            bytes_per_second: bytes as f64 / seconds,
        })
    };
    last.counters.iter().filter_map(rate).collect()
}

/// Those that send most and those that have most open: to look up the limits of all would take too long.
fn keep_busiest(rates: &mut Vec<(SourceKey, SourceRate)>) {
    let mut places: Vec<usize> = (0..rates.len()).collect();
    let mut kept = HashSet::new();
    for sort in [Sort::Packets, Sort::Connections] {
        places.sort_by(|one, other| sort.of(&rates[*other].1).total_cmp(&sort.of(&rates[*one].1)));
        kept.extend(places.iter().take(TopQuery::MOST).copied());
    }
    let mut place = 0;
    rates.retain(|_| {
        place += 1;
        kept.contains(&(place - 1))
    });
}

/// What each source sent between two looks; and those that have connections and are silent.
fn source_rates(
    before: &Look,
    last: &Look,
    open: &HashMap<SourceKey, u64>,
    seconds: f64,
) -> Vec<(SourceKey, SourceRate)> {
    let silent =
        open.keys().filter(|key| !last.traffic.contains_key(key)).map(|key| (*key, Traffic::default()));
    let sent = last.traffic.iter().map(|(key, traffic)| (*key, since(before.traffic.get(key), traffic)));
    let rates = sent.chain(silent).map(|(key, traffic)| {
        let per_second = |count: u64| count as f64 / seconds;
        let address = IpAddr::from(key.address());
        let rate = SourceRate {
            source: address.into(),
            service: String::new(),
            packets_per_second: per_second(traffic.packets),
            bytes_per_second: per_second(traffic.bytes),
            openings_per_second: per_second(traffic.openings),
            dropped_per_second: per_second(traffic.dropped),
            connections: open.get(&key).copied().unwrap_or(0),
            limit_used: None,
            blocked: false,
        };
        (key, rate)
    });
    rates.filter(|(_, rate)| rate.packets_per_second > 0.0 || rate.connections > 0).collect()
}

/// What was counted since. An entry that has less than before was made anew.
fn since(before: Option<&Traffic>, now: &Traffic) -> Traffic {
    match before {
        Some(before) if before.packets <= now.packets => Traffic {
            packets: now.packets - before.packets,
            bytes: now.bytes.saturating_sub(before.bytes),
            openings: now.openings.saturating_sub(before.openings),
            dropped: now.dropped.saturating_sub(before.dropped),
        },
        _ => *now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::abi::{Service, ServiceId};

    fn key(host: u8) -> SourceKey {
        SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), Address::v4([10, 0, 0, host]))
    }

    fn look(at: Instant, traffic: &[(u8, u64)]) -> Look {
        let traffic = traffic.iter().map(|(host, packets)| {
            (key(*host), Traffic { packets: *packets, bytes: packets * 100, openings: 1, dropped: *packets })
        });
        Look { at, traffic: traffic.collect(), counters: Vec::new() }
    }

    #[test]
    fn rates_are_of_what_came_in_between() {
        let begin = Instant::now();
        let (before, last) = (
            look(begin, &[(1, 100), (2, 50), (3, 900), (5, 5)]),
            look(begin, &[(1, 300), (2, 50), (3, 10), (4, 20), (5, 5)]),
        );
        let open = HashMap::from([(key(2), 3), (key(9), 1)]);
        let rates = source_rates(&before, &last, &open, 2.0);
        let found: HashMap<_, _> =
            rates.iter().map(|(key, rate)| (*key, (rate.packets_per_second, rate.connections))).collect();
        let expected = HashMap::from([
            (key(1), (100.0, 0)),
            // Silent, and connected.
            (key(2), (0.0, 3)),
            (key(9), (0.0, 1)),
            // Forgotten in between and seen again; new.
            (key(3), (5.0, 0)),
            (key(4), (10.0, 0)),
        ]);
        assert_eq!(found, expected);
    }
}
