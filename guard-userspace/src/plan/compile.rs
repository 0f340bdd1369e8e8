//! From a validated policy to the entries of the tables.

use std::collections::BTreeMap;

use guard_common::abi::{self, LimitsId, ServiceId, Thresholds};
use guard_common::gcra::{Rate, RateError};
use guard_common::parse::Protocol;
use ipnet::IpNet;

use super::rules::{self, Lists};
use super::{Plan, PlannedRule, PlannedService};
use crate::config;

/// A policy that the tables cannot hold. [`config::parse`] refuses all of these with their place in the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("more than {} services", ServiceId::COUNT - 1)]
    TooManyServices,
    #[error("more than {} different limits", LimitsId::COUNT - 1)]
    TooManyLimits,
    #[error("limits {name:?}: {what} is outside of what guard can keep")]
    Rate { name: String, what: &'static str },
    #[error("service {service:?}: there are no limits {name:?}")]
    UnknownLimits { service: String, name: String },
}

/// Compiles a policy. A service that `known` has a number for keeps it, and so its counters and the state of its sources.
///
/// # Errors
/// When the tables cannot hold the policy.
pub fn compile(policy: &config::Policy, known: &BTreeMap<String, ServiceId>) -> Result<Plan, CompileError> {
    let mut plan = Plan::empty();
    plan.thresholds = thresholds(&policy.autoblock);
    let limits = compile_limits(policy, &mut plan)?;
    let ids = number(policy, known)?;
    for (service, id) in policy.services.iter().zip(ids) {
        add_service(policy, service, id, &limits, &mut plan)?;
    }
    Ok(plan)
}

fn thresholds(autoblock: &config::Autoblock) -> Thresholds {
    if !autoblock.enabled {
        return Thresholds::default();
    }
    Thresholds {
        connections: autoblock.connections.unwrap_or(0).into(),
        refused: autoblock.refused_per_minute.into(),
        limited: autoblock.limited_per_minute.into(),
    }
}

fn compile_limits(
    policy: &config::Policy,
    plan: &mut Plan,
) -> Result<BTreeMap<String, LimitsId>, CompileError> {
    let mut ids = BTreeMap::new();
    for (name, limits) in &policy.limits {
        let id = u8::try_from(plan.limits.len()).map_err(|_| CompileError::TooManyLimits)?;
        let failed = |what| CompileError::Rate { name: name.clone(), what };
        plan.limits.push(abi::Limits {
            packets: rate(Rate::of_events, limits.packets).map_err(|_| failed("packets_per_second"))?,
            bytes: rate(Rate::of_bytes, limits.bytes).map_err(|_| failed("bytes_per_second"))?,
            connections: rate(Rate::of_events, limits.connections)
                .map_err(|_| failed("connections_per_second"))?,
            max_connections: limits.max_connections.map_or(0, u64::from),
        });
        ids.insert(name.clone(), LimitsId::new(id));
    }
    Ok(ids)
}

fn rate(
    make: fn(u64, u64) -> Result<Rate, RateError>,
    rate: Option<config::Rate>,
) -> Result<Rate, RateError> {
    rate.map_or(Ok(Rate::UNLIMITED), |rate| make(rate.per_second, rate.burst))
}

/// A number for each service: the known one, or the lowest that is not in use. The numbers of services that are gone are
/// taken again last, so that their counters stay as long as they can.
fn number(
    policy: &config::Policy,
    known: &BTreeMap<String, ServiceId>,
) -> Result<Vec<ServiceId>, CompileError> {
    let kept: Vec<ServiceId> =
        policy.services.iter().filter_map(|service| known.get(&service.name)).copied().collect();
    let all = || (1..=u8::MAX).map(ServiceId::new);
    let unused = all().filter(|id| !known.values().any(|used| used == id));
    let left_over = all().filter(|id| known.values().any(|used| used == id) && !kept.contains(id));
    let mut free = unused.chain(left_over);
    let of = |service: &config::Service| known.get(&service.name).copied().or_else(|| free.next());
    policy.services.iter().map(of).collect::<Option<_>>().ok_or(CompileError::TooManyServices)
}

fn add_service(
    policy: &config::Policy,
    service: &config::Service,
    id: ServiceId,
    limits: &BTreeMap<String, LimitsId>,
    plan: &mut Plan,
) -> Result<(), CompileError> {
    let find = |name: &String| {
        let unknown = || CompileError::UnknownLimits { service: service.name.clone(), name: name.clone() };
        limits.get(name).copied().ok_or_else(unknown)
    };
    let monitors = service.mode == config::ServiceMode::Monitor;
    plan.enforces |= !monitors;
    let mut entry = abi::Service::new(monitors, policy.source.ipv4_prefix, policy.source.ipv6_prefix);
    if !service.destinations.is_empty() {
        entry = entry.with_destinations();
        plan.destinations.extend(service.destinations.iter().map(|prefix| (id, prefix.net)));
    }
    plan.services.push(PlannedService { id, name: service.name.clone(), entry });
    for protocol in &service.protocols {
        let protocol = match protocol {
            config::Protocol::Tcp => Protocol::Tcp,
            config::Protocol::Udp => Protocol::Udp,
        };
        for port in service.ports.iter().cloned().flatten() {
            plan.guard_port(protocol, port, id);
        }
    }
    let sources: Vec<(IpNet, LimitsId)> = service
        .sources
        .iter()
        .map(|source| Ok((source.prefix.net, find(&source.limits)?)))
        .collect::<Result<_, CompileError>>()?;
    let merged = rules::merge(Lists {
        allow: &mut service.allow.iter().map(|prefix| prefix.net),
        deny: &mut service.deny.iter().map(|prefix| prefix.net),
        sources: &mut sources.into_iter(),
        trusted: &mut policy.trusted.iter().map(|prefix| prefix.net),
        limits: service.limits.as_ref().map_or(Ok(LimitsId::NONE), find)?,
    });
    for (net, rule) in merged {
        match net {
            IpNet::V4(net) => plan.rules_v4.push(PlannedRule { service: id, net, rule }),
            IpNet::V6(net) => plan.rules_v6.push(PlannedRule { service: id, net, rule }),
        }
    }
    Ok(())
}
