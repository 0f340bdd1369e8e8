//! What holds for every policy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::select;

use crate::config::keyword::Keyword;
use crate::config::*;

fn keyword<K: Keyword + std::fmt::Debug>() -> impl Strategy<Value = K> {
    select(K::ALL)
}

/// Networks within 10.0.0.0/8 and fd00::/16.
fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 8u8..=32).prop_map(|(bits, length)| {
        let address = Ipv4Addr::from(bits & 0x00ff_ffff | 10 << 24);
        IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc())
    });
    let v6 = (any::<u128>(), 16u8..=128).prop_map(|(bits, length)| {
        let address = Ipv6Addr::from(bits & (u128::MAX >> 16) | 0xfd00 << 112);
        IpNet::V6(Ipv6Net::new(address, length).unwrap().trunc())
    });
    prop_oneof![v4, v6]
}

fn prefix(net: IpNet) -> Prefix {
    Prefix { net, line: None }
}

fn prefixes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Prefix>> {
    prop::collection::vec(net().prop_map(prefix), count)
}

fn events() -> impl Strategy<Value = Rate> {
    (1..=10_000_000u64).prop_flat_map(|per_second| {
        (1..=per_second.saturating_mul(3600)).prop_map(move |burst| Rate { per_second, burst })
    })
}

fn bytes() -> impl Strategy<Value = Rate> {
    (0..=37u32, 1024..2048u64, 0..=16u32).prop_map(|(shift, base, more)| {
        let per_second = (base << shift).min(100 << 30);
        Rate { per_second, burst: (per_second << (more % 8)).max(65536) }
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let rates = (prop::option::of(events()), prop::option::of(bytes()), prop::option::of(events()));
    (rates, prop::option::of(1..=u32::MAX / 2)).prop_map(
        |((packets, bytes, connections), max_connections)| Limits {
            packets,
            bytes,
            connections,
            max_connections,
        },
    )
}

const NAMES: [&str; 4] = ["client", "a.b", "1", "x-_"];

fn named_limits() -> impl Strategy<Value = BTreeMap<String, Limits>> {
    prop::collection::btree_map(select(&NAMES).prop_map(str::to_owned), limits(), 1..=NAMES.len())
}

/// A service of the ports from `index` thousand, so that services do not meet.
fn service(index: u16, limits: Vec<String>) -> impl Strategy<Value = Service> {
    let first = index * 1000 + 1;
    let ports = prop::collection::vec((first..first + 500, 0..400u16), 1..4)
        .prop_map(|ranges| units::merge_ports(ranges.into_iter().map(|(from, more)| from..=from + more)));
    let protocols =
        select(vec![vec![Protocol::Tcp], vec![Protocol::Udp], vec![Protocol::Tcp, Protocol::Udp]]);
    let source_limits = prop::collection::vec(select(limits.clone()), 0..3);
    (
        ports,
        protocols,
        keyword(),
        prefixes(1..6),
        prefixes(0..6),
        prefixes(0..3),
        prop::option::of(select(limits)),
        source_limits,
    )
        .prop_map(
            move |(ports, protocols, mode, allow, mut deny, destinations, limits, source_limits)| {
                deny.retain(|prefix| !allow.contains(prefix));
                let mut seen = BTreeSet::new();
                let fresh = allow.iter().filter(|prefix| seen.insert(prefix.net));
                let sources = fresh
                    .copied()
                    .zip(source_limits)
                    .map(|(prefix, limits)| SourceLimits { prefix, limits })
                    .collect();
                Service {
                    name: format!("service.{index}"),
                    ports,
                    protocols,
                    mode,
                    allow,
                    deny,
                    destinations,
                    limits,
                    sources,
                }
            },
        )
}

fn services(limits: &BTreeMap<String, Limits>) -> impl Strategy<Value = Vec<Service>> + use<> {
    let names: Vec<String> = limits.keys().cloned().collect();
    (1..5u16)
        .prop_flat_map(move |count| (0..count).map(|index| service(index, names.clone())).collect::<Vec<_>>())
}

fn autoblock() -> impl Strategy<Value = Autoblock> {
    let seconds = || (1..=366 * 86_400u64).prop_map(Duration::from_secs);
    // Above each `max_connections` that the limits here have.
    let connections = prop::option::of((u32::MAX / 2 + 1)..=u32::MAX);
    let thresholds = (connections, 1..=u32::MAX, 1..=u32::MAX);
    (any::<[bool; 2]>(), thresholds, seconds(), seconds(), seconds(), keyword(), prefixes(0..3)).prop_map(
        |(
            [enabled, kill],
            (connections, refused_per_minute, limited_per_minute),
            a,
            b,
            forget_after,
            scope,
            never,
        )| Autoblock {
            enabled,
            connections,
            refused_per_minute,
            limited_per_minute,
            duration: a.min(b),
            max_duration: a.max(b),
            forget_after,
            scope,
            kill,
            never,
        },
    )
}

fn attach() -> impl Strategy<Value = Attach> {
    let name = prop_oneof!["[a-z0-9@\"'\\\\#.-]{3,15}", "[a-z]{1,20}[*?]", Just(DEFAULT_ROUTE.to_owned())];
    (prop::collection::vec(name, 1..4), keyword(), keyword(), any::<bool>()).prop_map(
        |(interfaces, mode, on_exit, allow_missing)| Attach { interfaces, mode, on_exit, allow_missing },
    )
}

/// Single addresses that no list of [`net`] has.
fn trusted() -> impl Strategy<Value = Vec<Prefix>> {
    let host = any::<u8>().prop_map(|last| prefix(IpNet::from(IpAddr::from([172, 16, 0, last]))));
    prop::collection::vec(host, 0..3)
}

fn capacity() -> impl Strategy<Value = Capacity> {
    let entries = || 1024..=1u32 << 24;
    (entries(), entries(), entries()).prop_map(|(blocks, sources, connections)| Capacity {
        blocks,
        sources,
        connections,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let listen = (any::<IpAddr>(), 1..=u16::MAX);
    let room = (capacity(), listen);
    let log = (keyword(), keyword()).prop_map(|(level, format)| Log { level, format });
    let grouping = (8..=32u8, 32..=128u8);
    let served = named_limits().prop_flat_map(|limits| (services(&limits), Just(limits)));
    (served, attach(), trusted(), autoblock(), grouping, room, log).prop_map(
        |(
            (services, limits),
            attach,
            trusted,
            autoblock,
            (ipv4_prefix, ipv6_prefix),
            (capacity, (ip, port)),
            log,
        )| {
            Policy {
                attach,
                services,
                limits,
                source: SourceGrouping { ipv4_prefix, ipv6_prefix },
                trusted,
                autoblock,
                capacity,
                metrics: Metrics { listen: SocketAddr::new(ip, port), top_sources: port % 101 },
                log,
            }
        },
    )
}

proptest! {
    #[test]
    fn the_normal_form_reads_back_as_the_same_policy(policy in policy()) {
        let text = policy.to_toml();
        let Checked { policy: again, .. } = parse(&text, "policy.toml").unwrap_or_else(|report| panic!("{report}\n{text}"));
        prop_assert_eq!(&again, &policy);
        prop_assert_eq!(again.to_toml(), text);
        // The tables hold whatever passes here.
        for limits in policy.limits.values() {
            for rate in [limits.packets, limits.connections].into_iter().flatten() {
                prop_assert!(guard_common::gcra::Rate::of_events(rate.per_second, rate.burst).is_ok());
            }
            if let Some(rate) = limits.bytes {
                prop_assert!(guard_common::gcra::Rate::of_bytes(rate.per_second, rate.burst).is_ok());
            }
        }
    }
}
