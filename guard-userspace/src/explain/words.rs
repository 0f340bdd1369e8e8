//! A step in words.

use std::collections::BTreeMap;
use std::time::Duration;

use guard_common::Tables;
use guard_common::abi::{Class, Limits, LimitsId, Rule, ServiceId, SourceKey};
use guard_common::gcra::{Rate, Word};
use guard_common::observe::{Limit, Step};
use guard_common::parse::{Kind, Protocol};

use super::{ExplainedStep, Question};

pub(super) const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

pub(super) fn of_steps<T: Tables>(
    steps: &[Step],
    question: &Question,
    tables: &T,
    names: &BTreeMap<ServiceId, String>,
    now: u64,
) -> Vec<ExplainedStep> {
    let mut limits: Option<(Limits, SourceKey)> = None;
    let mut explained = Vec::new();
    for step in steps {
        let (name, text) = match step {
            Step::Policy(_) | Step::Parsed(Ok(Kind::Segment(_)), _) => continue,
            Step::Parsed(Ok(_), _) => ("packet", "has no ports".to_owned()),
            Step::Parsed(Err(malformed), _) => ("packet", format!("is malformed: {}", malformed.name())),
            Step::Service(id) => ("service", service(*id, question, names)),
            Step::Rule(rule) => ("rule", self::rule(*rule)),
            Step::Block { exact, until } => ("block", block(*exact, *until, now)),
            Step::Limits(of_source, key) => {
                limits = Some((*of_source, *key));
                ("source", format!("{} has limits of its own", std::net::IpAddr::from(key.address())))
            }
            Step::Limit { limit, within } => ("limit", self::limit(*limit, *within, limits, tables, now)),
            Step::Connections { open, limit } => ("connections", format!("{open} open, of {limit} at most")),
        };
        explained.push(ExplainedStep { step: name.into(), text });
    }
    explained
}

fn service(id: Option<ServiceId>, question: &Question, names: &BTreeMap<ServiceId, String>) -> String {
    let port = format!("{} port {}", protocol(question.protocol), question.port);
    match id.and_then(|id| names.get(&id)) {
        Some(name) => format!("{port} is guarded as {name:?}"),
        None => format!("{port} is not guarded"),
    }
}

fn rule(rule: Option<Rule>) -> String {
    let Some(rule) = rule else { return "no prefix of `allow` contains the source".into() };
    match rule.class() {
        Class::Deny => "the longest prefix around the source is one of `deny`".into(),
        Class::Trusted => "the source is trusted: no blocks, no limits".into(),
        Class::Allow if rule.limits() == LimitsId::NONE => "allowed, without limits".into(),
        Class::Allow => "allowed, with limits".into(),
    }
}

fn block(exact: bool, until: u64, now: u64) -> String {
    let what = if exact { "the source is blocked" } else { "a prefix around the source is blocked" };
    match until {
        u64::MAX => format!("{what}, for good"),
        until => format!("{what}, for another {}", rounded(until.saturating_sub(now))),
    }
}

fn limit<T: Tables>(
    limit: Limit,
    within: bool,
    of: Option<(Limits, SourceKey)>,
    tables: &T,
    now: u64,
) -> String {
    let (name, pick): (&str, fn(&Limits) -> Rate) = match limit {
        Limit::Packets => ("packets", |limits| limits.packets),
        Limit::Bytes => ("bytes", |limits| limits.bytes),
        Limit::Connections => ("new connections", |limits| limits.connections),
    };
    let verdict = if within { "within the limit" } else { "OVER THE LIMIT" };
    let Some((rate, state)) = of.and_then(|(limits, key)| Some((pick(&limits), tables.meter(&key)?))) else {
        return format!("{name}: {verdict}");
    };
    if rate.is_unlimited() {
        return format!("{name}: not limited");
    }
    let arrival = match limit {
        Limit::Packets => state.packets.load(),
        Limit::Bytes => state.bytes.load(),
        Limit::Connections => state.connections.load(),
    };
    // Of a source that was never seen the word is 0, and its whole burst is there.
    let (left, burst, full_after) =
        (rate.left(arrival, now), rate.left(0, now), Rate::full_after(arrival, now));
    match full_after {
        0 => format!("{name}: {verdict}, {left} of {burst} burst left"),
        nanos => format!("{name}: {verdict}, {left} of {burst} burst left, full again in {}", rounded(nanos)),
    }
}

/// A duration to three digits, as a person says it.
fn rounded(nanos: u64) -> String {
    let unit = match nanos {
        0..1_000_000 => 1_000,
        1_000_000..1_000_000_000 => 10_000,
        1_000_000_000..60_000_000_000 => 10_000_000,
        _ => 1_000_000_000,
    };
    humantime::format_duration(Duration::from_nanos(nanos.next_multiple_of(unit))).to_string()
}
