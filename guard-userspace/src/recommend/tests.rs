//! From the kernel's counts to a proposal, and back through the limiter.

use std::collections::HashMap;

use guard_common::Address;
use guard_common::abi::{Service, ServiceId, SourceKey, Traffic};
use guard_common::gcra::Rate;
use ipnet::IpNet;
use proptest::prelude::*;

use super::limits::LEAST;
use super::seen::Dimension;
use super::*;
use crate::memory::MemoryWord;

/// So much at once, so far into its second (0 to 1).
type Sent = (u64, f64);

fn key(host: u8) -> SourceKey {
    SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), Address::v4([10, 0, 0, host]))
}

fn net(host: u8) -> IpNet {
    std::net::IpAddr::from([10, 0, 0, host]).into()
}

fn who(key: &SourceKey) -> Known {
    Known { net: std::net::IpAddr::from(key.address()).into(), service: "web".into(), counts: true }
}

/// Each opens a connection with each packet, and sends a hundred bytes.
fn counts(packets: u64) -> Traffic {
    Traffic { packets, bytes: packets * 100, openings: packets, dropped: 0 }
}

/// An agent that is played.
#[derive(Default)]
struct Watch {
    sampler: Sampler,
    seen: Seen,
    sums: HashMap<u8, u64>,
    open: HashMap<SourceKey, u64>,
    seconds: u64,
}

impl Watch {
    fn new() -> Self {
        let mut watch = Self::default();
        // The first look only says where the counts are.
        watch.look(0);
        watch
    }

    fn send(&mut self, host: u8, packets: u64) {
        *self.sums.entry(host).or_default() += packets;
    }

    fn look(&mut self, seconds: u64) {
        let traffic: Vec<_> = self.sums.iter().map(|(host, sum)| (key(*host), counts(*sum))).collect();
        self.seconds += seconds;
        let look = Look { traffic: &traffic, open: &self.open, seconds, now: self.seconds * 1000 };
        self.sampler.look(look, who, |_| false, &mut self.seen);
    }

    fn profile(&self) -> Profile {
        self.sampler.up_to_now(&self.seen, self.seconds * 1000).services.remove("web").unwrap_or_default()
    }

    fn propose(&self, headroom: f64) -> Proposal {
        propose("web", "web", &self.profile(), headroom)
    }
}

/// What is seen of sources that send this in each second, from looks that are so many seconds apart.
fn watch(sources: &[Vec<Sent>], step: u64) -> Watch {
    let mut watch = Watch::new();
    let seconds = sources.iter().map(Vec::len).max().unwrap_or(0);
    for second in 0..seconds {
        for (host, source) in (0..).zip(sources) {
            if let Some((packets, _)) = source.get(second).filter(|(packets, _)| *packets > 0) {
                watch.send(host, *packets);
            }
        }
        if (second as u64 + 1).is_multiple_of(step) || second + 1 == seconds {
            watch.look(step);
        }
    }
    watch
}

/// How many of these a limit drops, with so many times as much of it sent.
fn dropped(seconds: &[Sent], times: f64, per_second: u64, burst: u64) -> u64 {
    let rate = Rate::of_events(per_second, burst).unwrap();
    let word = MemoryWord::default();
    let begin = 1_000_000_000_000_u64;
    (0..)
        .zip(seconds)
        .map(|(second, (packets, into))| {
            let now = begin + second * 1_000_000_000 + (into * 1e9) as u64;
            (0..(*packets as f64 * times) as u64).filter(|_| !rate.admit(&word, now, 1)).count() as u64
        })
        .sum()
}

fn amounts() -> impl Strategy<Value = Vec<Sent>> {
    let amount = prop_oneof![3 => Just(0_u64), 2 => 0..3000_u64, 1 => Just(20_000_u64)];
    // At the edges, too, where windows meet.
    let into = prop_oneof![Just(0.0), 0.0..1.0, Just(0.999_999)];
    prop::collection::vec((amount, into), 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_seen_passes_with_headroom(
        sources in prop::collection::vec(amounts(), 1..4),
        headroom in prop_oneof![Just(1.0), Just(2.0), 1.0..4.0],
        step in prop::sample::select(vec![1_u64, 2, 5, 10]),
    ) {
        let proposal = watch(&sources, step).propose(headroom);
        for (host, source) in (0_u8..).zip(&sources) {
            let own = proposal.own.iter().find(|own| own.prefix == net(host)).map(|own| own.limits);
            let limits = own.unwrap_or(proposal.limits);
            let lost = dropped(source, headroom, limits.packets_per_second, limits.packet_burst);
            prop_assert_eq!(lost, 0, "{}: {:?}", host, limits);
            let lost = dropped(source, headroom, limits.connections_per_second, limits.connection_burst);
            prop_assert_eq!(lost, 0, "{}: {:?}", host, limits);
        }
    }

    #[test]
    fn no_more_is_dropped_than_is_said(
        sources in prop::collection::vec(amounts(), 1..4),
        headroom in prop_oneof![Just(1.0), Just(2.0)],
    ) {
        let Proposal { limits, own, would_have_dropped, .. } = watch(&sources, 1).propose(headroom);
        for said in would_have_dropped {
            let part = |amount: u64| ((amount as f64 * said.times_the_proposed) as u64).max(1);
            let lost = |rate, burst| -> Vec<u64> {
                let others = (0_u8..).zip(&sources).filter(|(host, _)| own.iter().all(|own| own.prefix != net(*host)));
                others.map(|(_, source)| dropped(source, 1.0, part(rate), part(burst))).collect()
            };
            let packets = lost(limits.packets_per_second, limits.packet_burst);
            let connections = lost(limits.connections_per_second, limits.connection_burst);
            let losers = packets.iter().zip(&connections).filter(|(packets, connections)| **packets + **connections > 0).count();
            // Where a part of a limit is not whole it is less than that.
            let slack = 1 + packets.iter().max().unwrap_or(&0) / 1000;
            prop_assert!(packets.iter().sum::<u64>() <= said.packets_at_most + slack, "{:?}: {:?}", said, packets);
            prop_assert!(connections.iter().sum::<u64>() <= said.new_connections_at_most + slack, "{:?}: {:?}", said, connections);
            prop_assert!(losers as u64 <= said.sources_at_most, "{:?}: {}", said, losers);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Where windows meet, what is in two of them may come at once.
    #[test]
    fn the_bound_of_drops_holds_wherever_in_its_window_it_comes(
        windows in prop::collection::vec((0..6000_u64, any::<bool>()), 1..20),
        rate in 1..1000_u64,
        burst in 1..6000_u64,
    ) {
        let limits = Limits { packets_per_second: rate, packet_burst: burst, ..LEAST };
        let most = limits.surely_passes(Dimension::Packets, 1.0);
        let mut seconds: Vec<Sent> = vec![(0, 0.0); windows.len() * 10];
        for (window, (packets, is_late)) in windows.iter().enumerate() {
            let (second, into) = if *is_late { (9, 0.999_999) } else { (0, 0.0) };
            seconds[window * 10 + second] = (*packets, into);
        }
        let told: u64 = windows.iter().map(|(packets, _)| packets.saturating_sub(most)).sum();
        let lost = dropped(&seconds, 1.0, rate, burst);
        prop_assert!(lost <= told, "{} of {} told", lost, told);
    }
}

#[test]
fn a_tenth_of_the_limits_drops_a_part_that_is_told() {
    let watch = watch(&[vec![(9000, 0.0); 120], vec![(3000, 0.0); 120]], 1);
    let told = watch.propose(2.0).would_have_dropped;
    let told: HashMap<_, _> =
        told.into_iter().map(|told| ((told.times_the_proposed * 100.0) as u64, told)).collect();
    for times in [200, 100, 50] {
        assert_eq!((told[&times].packets_at_most, told[&times].reasons.len()), (0, 0), "{times} %");
    }
    // 1,800 a second pass.
    let all = 12_000 * 120;
    let least = (9000 - 1800 + 3000 - 1800) * 120 - 2 * 40_000;
    assert!((least..all).contains(&told[&10].packets_at_most), "{:?}", told[&10]);
    // Each limit may have others.
    assert_eq!((told[&10].sources_at_most, told[&25].sources_at_most), (2, 2));
}

#[test]
fn a_gateway_gets_limits_of_its_own_among_many_and_among_few() {
    for others in [4, 119] {
        let mut sources: Vec<Vec<Sent>> = (0..=others).map(|_| vec![(20, 0.0); 60]).collect();
        sources[3] = vec![(9000, 0.0); 60];
        let proposal = propose("web", "client", &watch(&sources, 1).profile(), 2.0);
        assert_eq!(
            proposal.own.iter().map(|own| own.prefix).collect::<Vec<_>>(),
            [net(3)],
            "{others} others"
        );
        assert_eq!(proposal.own[0].limits.packets_per_second, 18_000);
        assert_eq!(
            proposal.limits.packets_per_second, LEAST.packets_per_second,
            "the others need next to nothing"
        );
        assert_eq!(proposal.sources, others + 1);
        let busiest = proposal.busiest.as_ref().unwrap();
        assert_eq!((busiest.source, busiest.packets_in_ten_seconds >= 90_000), (net(3), true));
        let policy = format!(
            "[[service]]\nname = \"web\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\nlimits = \"client\"\n[[service.sources]]\nprefix = \"{}\"\nlimits = \"client-1\"\n{}",
            net(3),
            proposal.lines
        );
        let checked = crate::config::parse(&policy, "guard.toml").unwrap();
        assert_eq!(checked.policy.limits.len(), 2, "{policy}");
    }
}

#[test]
fn who_is_above_the_others_and_needs_no_more_than_the_least_is_none_of_its_own() {
    let mut sources: Vec<Vec<Sent>> = (0..6).map(|_| vec![(1, 0.0)]).collect();
    sources[3] = vec![(12, 0.0)];
    assert_eq!(watch(&sources, 1).propose(2.0).own, []);
}

#[test]
fn who_comes_and_goes_within_a_second_is_seen() {
    let mut watch = Watch::new();
    watch.send(1, 1);
    (0..7).for_each(|_| watch.look(1));
    watch.send(2, 8100);
    watch.look(1);
    assert_eq!((watch.profile().packets, watch.profile().sources), (8101, 2), "before the window is over");
    (0..70).for_each(|_| watch.look(1));
    assert_eq!((watch.profile().packets, watch.profile().sources), (8101, 2));
    assert!(watch.propose(2.0).limits.packet_burst >= 2 * 8100);
}

#[test]
fn what_was_counted_before_anybody_looked_is_not_seen() {
    let mut watch = Watch::default();
    watch.send(1, 1_000_000);
    watch.look(1);
    assert_eq!(watch.profile(), Profile::default());
    watch.send(1, 5);
    watch.look(1);
    assert_eq!(watch.profile().packets, 5);
}

#[test]
fn a_few_seconds_are_enough_for_rates() {
    let watch = watch(&[vec![(9000, 0.0); 6]], 1);
    let limits = watch.propose(2.0).limits;
    assert!(limits.packets_per_second >= 18_000 && limits.packet_burst >= 2 * 54_000, "{limits:?}");
}

#[test]
fn connections_of_who_sends_nothing_count() {
    let mut watch = Watch::new();
    watch.open.insert(key(1), 300);
    (0..10).for_each(|_| watch.look(1));
    assert_eq!(watch.propose(2.0).limits.max_connections, 600);
}

#[test]
fn a_new_policy_asks_for_all_again_and_loses_nothing() {
    let mut watch = Watch::new();
    for second in 0..20 {
        (1..3).for_each(|host| watch.send(host, 10));
        watch.look(1);
        if second == 4 {
            // One is not let in any longer.
            watch.sampler.ask_again(|source| Known { counts: *source != key(2), ..who(source) });
        }
    }
    assert_eq!(watch.profile().packets, 20 * 10 + 5 * 10);
}

#[test]
fn who_is_blocked_does_not_count() {
    let (mut sampler, mut seen, open) = (Sampler::default(), Seen::default(), HashMap::new());
    for second in 0..20_u64 {
        let traffic = [1, 2].map(|host| {
            (
                key(host),
                Traffic { packets: second * 10, bytes: second * 600, openings: 0, dropped: second * 10 },
            )
        });
        let look = Look { traffic: &traffic, open: &open, seconds: 1, now: 0 };
        sampler.look(look, who, |source| *source == key(2), &mut seen);
    }
    let profile = &seen.services["web"];
    assert_eq!((profile.sources, profile.packets), (1, 190));
    assert_eq!((profile.dropped, profile.sources_dropped), (190, 1), "the other is over its limits");
}

#[test]
fn it_is_kept_and_read_again_and_not_from_another_build() {
    let watch = watch(&[vec![(9000, 0.0); 70], vec![(10, 0.0); 70]], 1);
    let seen = watch.sampler.up_to_now(&watch.seen, 0);
    let text = serde_json::to_string(&seen).unwrap();
    assert_eq!(Seen::read(text.as_bytes()), Some(seen));
    assert_eq!(Seen::read(text.replacen("\"version\":2", "\"version\":1", 1).as_bytes()), None);
    assert_eq!(Seen::read(b"{"), None);
}

#[test]
fn a_flood_of_forged_addresses_takes_no_memory_and_hides_nobody() {
    const AT_ONCE: u32 = 65_536;
    let mut sampler = Sampler::default();
    let mut seen = Seen::default();
    let open = HashMap::new();
    let asked = std::cell::Cell::new(0);
    let who = |key: &SourceKey| {
        asked.set(asked.get() + 1);
        who(key)
    };
    let mut sent = 0;
    let mut most = 0;
    for second in 0..60_u32 {
        // One packet of each in the table of the kernel, and a client that goes on.
        let forged = (0..AT_ONCE).map(|number| {
            let address = Address::v4((11 << 24 | (second % 16) << 20 | number).to_be_bytes());
            (SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), address), counts(1))
        });
        sent += 7;
        let traffic: Vec<_> = std::iter::once((key(1), counts(sent))).chain(forged).collect();
        let before = asked.get();
        sampler.look(
            Look { traffic: &traffic, open: &open, seconds: 1, now: u64::from(second) * 1000 },
            who,
            |_| false,
            &mut seen,
        );
        most = most.max(sampler.len());
        assert!(second == 0 || asked.get() - before <= 8_192, "asked {} times", asked.get() - before);
    }
    assert!(most <= 57_344, "{most} sources");
    let profile = sampler.up_to_now(&seen, 60_000).services.remove("web").unwrap();
    let leader = profile.leaders[&net(1)];
    assert_eq!(leader.packets(), 70, "seven a second");
}
