//! A world from bytes: any bytes make one, and bytes that are near make worlds that are near.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Arbitrary, Result, Unstructured};
use guard_common::abi::End;
use guard_userspace::blocks::nested::Ends;
use guard_userspace::config::{
    Limits, Policy, Prefix, Protocol, Rate, Service, ServiceMode, SourceGrouping, SourceLimits,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::World;

const SECOND: u64 = 1_000_000_000;
/// Also close to the wrap of the limiter's clock, and after it.
const STARTS: [u64; 5] = [1_000 * SECOND, 1, (1 << 60) - SECOND, (1 << 60) - 1, 1 << 61];
const LIMITS: [&str; 4] = ["packets", "bytes", "connections", "all"];

impl<'a> Arbitrary<'a> for World {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let start = *u.choose(&STARTS)?;
        let trusted = some(u, 0..=2, net)?;
        let mut services = Vec::new();
        for index in 0..u.int_in_range(1..=3)? {
            services.push(service(u, index, &trusted)?);
        }
        let policy = Policy {
            services,
            limits: limits(u)?,
            source: SourceGrouping {
                ipv4_prefix: u.int_in_range(16..=32)?,
                ipv6_prefix: u.int_in_range(40..=128)?,
            },
            trusted: trusted.into_iter().map(prefix).collect(),
            ..Policy::default()
        };
        let mut connections = BTreeMap::new();
        for prefix in policy.services.iter().flat_map(|service| &service.allow) {
            connections.insert(prefix.net.addr(), u.int_in_range(0..=4)?);
        }
        let world = Self { policy, blocks: BTreeMap::new(), connections, start };
        let blocks = some(u, 0..=4, |u| Ok((net(u)?, block(u, start)?)))?;
        Ok(blocks.into_iter().fold(world, |world, (net, block)| world.with_block(net, block)))
    }
}

fn some<'a, T>(
    u: &mut Unstructured<'a>,
    count: std::ops::RangeInclusive<usize>,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(count)?).map(|_| one(u)).collect()
}

/// A service without contradictions: nothing is both allowed and denied, nothing trusted is denied.
fn service(u: &mut Unstructured<'_>, index: u16, trusted: &[IpNet]) -> Result<Service> {
    let first = 8000 + 100 * index;
    let last = first + u.int_in_range(0..=2)?;
    let mut allow = some(u, 1..=4, net)?;
    allow.sort();
    allow.dedup();
    let mut deny = some(u, 0..=3, net)?;
    deny.sort();
    deny.dedup();
    deny.retain(|net| !allow.contains(net) && !trusted.iter().any(|around| around.contains(net)));
    let mut sources = Vec::new();
    for net in allow.iter().take(u.int_in_range(0..=2)?) {
        sources.push(SourceLimits { prefix: prefix(*net), limits: (*u.choose(&LIMITS)?).into() });
    }
    let limits = match u.int_in_range(0..=LIMITS.len())? {
        0 => None,
        chosen => LIMITS.get(chosen - 1).map(|name| (*name).into()),
    };
    Ok(Service {
        name: format!("service-{index}"),
        ports: vec![first..=last],
        protocols: match u.int_in_range(0..=3)? {
            0 => vec![Protocol::Tcp],
            1 => vec![Protocol::Udp],
            _ => vec![Protocol::Tcp, Protocol::Udp],
        },
        mode: if u.int_in_range(0..=3)? == 0 { ServiceMode::Monitor } else { ServiceMode::Enforce },
        allow: allow.into_iter().map(prefix).collect(),
        deny: deny.into_iter().map(prefix).collect(),
        // A property of its own sets them: the committed inputs stay what they are.
        destinations: Vec::new(),
        limits,
        sources,
    })
}

/// Small enough to be reached by a few packets.
fn limits(u: &mut Unstructured<'_>) -> Result<BTreeMap<String, Limits>> {
    let packets = Some(Rate { per_second: 1, burst: u.int_in_range(1..=4)? });
    let many = Some(Rate { per_second: 1, burst: 100 });
    let bytes = Some(Rate { per_second: 1024, burst: 65_536 });
    let connections = Some(Rate { per_second: 1, burst: u.int_in_range(1..=3)? });
    let max_connections = Some(u.int_in_range(1..=4)?);
    let alone = [
        Limits { packets, ..Limits::default() },
        Limits { bytes, ..Limits::default() },
        Limits { connections, max_connections, ..Limits::default() },
        Limits { packets: many, bytes, connections, max_connections },
    ];
    Ok(LIMITS.map(String::from).into_iter().zip(alone).collect())
}

/// The last end of a block that is over at that time; none in the first second.
pub fn last_end(now: u64) -> End {
    if now < SECOND { End::NONE } else { End::not_before(now - now % SECOND) }
}

fn block(u: &mut Unstructured<'_>, now: u64) -> Result<Ends> {
    let [next, later] = [now + 1, now + 3600 * SECOND].map(End::not_before);
    let ends = [End::NONE, last_end(now.saturating_sub(SECOND)), last_end(now), next, later, End::FOREVER];
    let host = *u.choose(&ends)?;
    Ok(Ends { host, services: host.max(*u.choose(&ends)?) })
}

/// Networks of a small space, so that they meet: 10.(0..4).(0..64).x and fd00:xx::xx.
fn net(u: &mut Unstructured<'_>) -> Result<IpNet> {
    let of_ipv6 = u.int_in_range(0..=1)? == 1;
    let [high, low] = u.arbitrary::<u16>()?.to_be_bytes();
    let net = if of_ipv6 {
        let address = Ipv6Addr::new(0xfd00, high.into(), 0, 0, 0, 0, 0, low.into());
        Ipv6Net::new(address, u.int_in_range(16..=128)?).map(IpNet::V6)
    } else {
        let address = Ipv4Addr::new(10, high >> 6, high & 0x3f, low);
        Ipv4Net::new(address, u.int_in_range(8..=32)?).map(IpNet::V4)
    };
    // Lengths are within the family's.
    Ok(net.map_or(IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), |net| net.trunc()))
}

fn prefix(net: IpNet) -> Prefix {
    Prefix { net, line: None }
}
