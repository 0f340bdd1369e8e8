//! Limits that would have let all of it through, with headroom.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::seen::{Dimension, MINUTE, Peaks, Profile, TEN, WINDOWS};

/// Windows begin where they begin, and what came may lie across them. With rates twice the busiest minute's this much more than the busiest ten
/// seconds covers whatever lies how.
const ACROSS: f64 = 1.35;
/// A source that has so many times what 99 of 100 have gets limits of its own.
const FAR_ABOVE: u64 = 8;
/// Less cuts clients that behave: docs/policy.md has the table.
const LEAST: Limits = Limits {
    packets_per_second: 2000,
    packet_burst: 4000,
    bytes_per_second: 5 << 20,
    byte_burst: 10 << 20,
    connections_per_second: 10,
    connection_burst: 100,
    max_connections: 32,
};

/// As in `[limits.NAME]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub packets_per_second: u64,
    pub packet_burst: u64,
    pub bytes_per_second: u64,
    pub byte_burst: u64,
    pub connections_per_second: u64,
    pub connection_burst: u64,
    pub max_connections: u64,
}

impl Limits {
    fn covering(peaks: &Peaks, headroom: f64) -> Self {
        let rate = |dimension, least| {
            let second = peaks.of(dimension, MINUTE) as f64 / WINDOWS[MINUTE] as f64;
            rounded_up(second * headroom).max(least)
        };
        let burst = |dimension, rate: u64, least: u64| {
            let most = peaks.of(dimension, TEN).max(peaks.of(dimension, 0));
            rounded_up(most as f64 * headroom * ACROSS).max(least).max(rate)
        };
        let packets_per_second = rate(Dimension::Packets, LEAST.packets_per_second);
        let bytes_per_second = rate(Dimension::Bytes, LEAST.bytes_per_second);
        let connections_per_second = rate(Dimension::Openings, LEAST.connections_per_second);
        Self {
            packets_per_second,
            packet_burst: burst(Dimension::Packets, packets_per_second, LEAST.packet_burst),
            bytes_per_second,
            byte_burst: burst(Dimension::Bytes, bytes_per_second, LEAST.byte_burst),
            connections_per_second,
            connection_burst: burst(Dimension::Openings, connections_per_second, LEAST.connection_burst),
            max_connections: rounded_up(peaks.connections as f64 * headroom).max(LEAST.max_connections),
        }
    }

    /// How many packets at least limits that are so many times these would have dropped: what came in ten seconds beyond a whole burst and
    /// what comes back meanwhile.
    fn dropped(&self, profile: &Profile, times: f64) -> u64 {
        let most = (self.packets_per_second * WINDOWS[TEN] + self.packet_burst) as f64 * times;
        let over =
            |(amount, count): (u64, u64)| amount.saturating_sub(most.ceil() as u64).saturating_mul(count);
        profile.in_ten_seconds.iter().map(over).sum()
    }
}

/// What is proposed for a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub service: String,
    /// Since when it was watched, in milliseconds since the epoch, and for how many seconds.
    pub since: u64,
    pub seconds: u64,
    pub sources: u64,
    pub packets: u64,
    pub limits: Limits,
    /// Sources far above the others, with limits of their own.
    pub own: Vec<OwnLimits>,
    /// What limits that are so many times the proposed ones would have dropped, at least.
    pub would_have_dropped: Vec<Dropped>,
    /// Why it is to be taken with care.
    pub doubts: Vec<String>,
    /// The lines for the policy file.
    pub lines: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLimits {
    pub prefix: IpNet,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub times_the_proposed: f64,
    pub packets: u64,
}

/// Proposes limits for a service. `name` is what they are to be called.
pub fn propose(service: &str, name: &str, profile: &Profile, headroom: f64) -> Proposal {
    let usual = profile.in_a_minute.quantile(0.99);
    let is_far = |peaks: &Peaks| {
        profile.sources > 1 && peaks.of(Dimension::Packets, MINUTE) > usual.saturating_mul(FAR_ABOVE)
    };
    let (far, near): (Vec<_>, Vec<_>) = profile.leaders.iter().partition(|(_, peaks)| is_far(peaks));
    let most = near.into_iter().fold(profile.rest, |most, (_, peaks)| most.max(peaks));
    let limits = Limits::covering(&most, headroom);
    let own: Vec<OwnLimits> = far
        .into_iter()
        .map(|(prefix, peaks)| OwnLimits { prefix: *prefix, limits: Limits::covering(peaks, headroom) })
        .collect();
    let dropped = |times| Dropped { times_the_proposed: times, packets: limits.dropped(profile, times) };
    // Those far above would be counted into what is not theirs.
    let would_have_dropped =
        if own.is_empty() { [1.0, 0.5, 0.25, 0.1].map(dropped).to_vec() } else { Vec::new() };
    let lines = lines(service, name, &limits, &own);
    Proposal {
        service: service.into(),
        since: profile.since,
        seconds: profile.seconds,
        sources: profile.sources,
        packets: profile.packets,
        limits,
        own,
        would_have_dropped,
        doubts: doubts(profile),
        lines,
    }
}

fn doubts(profile: &Profile) -> Vec<String> {
    const HOUR: u64 = 3600;
    const FEW: u64 = 5;
    let mut doubts = Vec::new();
    if profile.seconds < HOUR {
        let time = humantime::format_duration(std::time::Duration::from_secs(profile.seconds));
        doubts.push(format!("it was watched for {time} only: watch for a day"));
    }
    if profile.sources < FEW {
        doubts.push(format!("only {} sources sent something", profile.sources));
    }
    doubts
}

fn lines(service: &str, name: &str, limits: &Limits, own: &[OwnLimits]) -> String {
    let mut text = format!("# In the [[service]] {service:?}:  limits = {name:?}\n");
    // Writing to a string cannot fail.
    for (number, OwnLimits { prefix, .. }) in own.iter().enumerate() {
        let _ = write!(
            text,
            "# Below it:\n#   [[service.sources]]\n#   prefix = \"{prefix}\"\n#   limits = \"{name}-{}\"\n",
            number + 1
        );
    }
    let tables = std::iter::once((name.to_owned(), limits))
        .chain(own.iter().enumerate().map(|(number, own)| (format!("{name}-{}", number + 1), &own.limits)));
    for (name, limits) in tables {
        let Limits {
            packets_per_second,
            packet_burst,
            bytes_per_second,
            byte_burst,
            connections_per_second,
            connection_burst,
            max_connections,
        } = limits;
        let _ = write!(
            text,
            "\n[limits.{name}]\npackets_per_second = {packets_per_second}\npacket_burst = {packet_burst}\n\
             bytes_per_second = {bytes_per_second}\nbyte_burst = {byte_burst}\nconnections_per_second = {connections_per_second}\n\
             connection_burst = {connection_burst}\nmax_connections = {max_connections}\n"
        );
    }
    text
}

/// To two digits, as people write limits.
fn rounded_up(amount: f64) -> u64 {
    let amount = amount.ceil().max(1.0);
    let unit = 10_f64.powf((amount.log10().floor() - 1.0).max(0.0));
    ((amount / unit).ceil() * unit) as u64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;

    use guard_common::Address;
    use guard_common::abi::{Service, ServiceId, SourceKey, Traffic};
    use guard_common::gcra::{Rate, Word};
    use proptest::prelude::*;

    use super::super::sampler::{Known, Sampler};
    use super::super::seen::Seen;
    use super::*;

    #[derive(Default)]
    struct Plain(Cell<u64>);

    impl Word for Plain {
        fn load(&self) -> u64 {
            self.0.get()
        }

        fn compare_exchange(&self, _: u64, new: u64) -> Result<(), u64> {
            self.0.set(new);
            Ok(())
        }

        fn add(&self, amount: u64) {
            self.0.set(self.0.get() + amount);
        }
    }

    fn key(host: u8) -> SourceKey {
        SourceKey::new(ServiceId::new(1), &Service::new(false, 32, 64), Address::v4([10, 0, 0, host]))
    }

    /// What is seen of sources that send so many packets in each second.
    fn seen(sources: &[Vec<u64>]) -> Profile {
        let (mut sampler, mut seen) = (Sampler::default(), Seen::default());
        let who = |key: &SourceKey| Known {
            net: std::net::IpAddr::from(key.address()).into(),
            service: "web".into(),
            counts: true,
        };
        let mut sums = vec![0; sources.len()];
        let seconds = sources.iter().map(Vec::len).max().unwrap_or(0).next_multiple_of(60);
        // The first look only says where the counts are.
        for second in 0..=seconds {
            let traffic: Vec<_> = (0..)
                .zip(sources)
                .zip(&mut sums)
                .map(|((host, source), sum)| {
                    *sum += second.checked_sub(1).and_then(|second| source.get(second)).copied().unwrap_or(0);
                    (key(host), Traffic { packets: *sum, bytes: *sum * 100, openings: 0, dropped: 0 })
                })
                .collect();
            sampler.tick(&traffic, &HashMap::new(), who, &mut seen, 0);
        }
        // The windows end one look later.
        for _ in 0..59 {
            sampler.tick(&[], &HashMap::new(), who, &mut seen, 0);
        }
        seen.services.remove("web").unwrap_or_default()
    }

    /// How many of these packets a limit drops: all of a second at its beginning.
    fn dropped(seconds: &[u64], per_second: u64, burst: u64) -> u64 {
        let rate = Rate::of_events(per_second, burst).unwrap();
        let word = Plain::default();
        let begin = 1_000_000_000_000_u64;
        (0..)
            .zip(seconds)
            .map(|(second, packets)| {
                let now = begin + second * 1_000_000_000;
                (0..*packets).filter(|_| !rate.admit(&word, now, 1)).count() as u64
            })
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_seen_passes(sources in prop::collection::vec(prop::collection::vec(prop_oneof![3 => Just(0_u64), 2 => 0..3000_u64, 1 => Just(20_000_u64)], 1..150), 1..4)) {
            let proposal = propose("web", "web", &seen(&sources), 2.0);
            for (host, source) in (0_u8..).zip(&sources) {
                let net: IpNet = std::net::IpAddr::from([10, 0, 0, host]).into();
                let own = proposal.own.iter().find(|own| own.prefix == net).map(|own| own.limits);
                let limits = own.unwrap_or(proposal.limits);
                prop_assert_eq!(dropped(source, limits.packets_per_second, limits.packet_burst), 0, "{}: {:?}", host, limits);
            }
        }

        #[test]
        fn what_would_have_been_dropped_is_no_exaggeration(source in prop::collection::vec(0..30_000_u64, 1..100)) {
            let profile = seen(std::slice::from_ref(&source));
            let Proposal { limits, would_have_dropped, .. } = propose("web", "web", &profile, 2.0);
            for Dropped { times_the_proposed: times, packets } in would_have_dropped {
                let part = |amount: u64| (amount as f64 * times) as u64;
                let real = dropped(&source, part(limits.packets_per_second), part(limits.packet_burst));
                // Amounts are kept to within a sixteenth.
                prop_assert!(packets <= real + source.iter().sum::<u64>() / 16, "{}: {} of {}", times, packets, real);
            }
        }
    }

    #[test]
    fn a_gateway_gets_limits_of_its_own() {
        let mut sources: Vec<Vec<u64>> = (0..120).map(|_| vec![20; 60]).collect();
        sources[7] = vec![9000; 60];
        let proposal = propose("web", "client", &seen(&sources), 2.0);
        assert_eq!(
            proposal.own.iter().map(|own| own.prefix.to_string()).collect::<Vec<_>>(),
            ["10.0.0.7/32"]
        );
        assert_eq!(proposal.own[0].limits.packets_per_second, 18_000);
        assert_eq!(proposal.limits, LEAST, "the others need next to nothing");
        assert_eq!(proposal.sources, 120);
        let policy = format!(
            "[[service]]\nname = \"web\"\nports = [8000]\nallow = [\"10.0.0.0/8\"]\nlimits = \"client\"\n[[service.sources]]\nprefix = \"10.0.0.7/32\"\nlimits = \"client-1\"\n{}",
            proposal.lines
        );
        let checked = crate::config::parse(&policy, "guard.toml").unwrap();
        assert_eq!(checked.policy.limits.len(), 2, "{policy}");
    }

    #[test]
    fn limits_are_round() {
        for (amount, expected) in [(0.0, 1), (9.2, 10), (99.0, 99), (101.0, 110), (12_345.0, 13_000)] {
            assert_eq!(rounded_up(amount), expected);
        }
    }
}
