//! A step in words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use guard_common::Tables;
use guard_common::abi::{Class, End, Limits, LimitsId, Rule, ServiceId, SourceKey};
use guard_common::gcra::Word;
use guard_common::observe::{Limit, Step};
use guard_common::parse::{Kind, Protocol};

use super::{Background, ExplainedStep, LimitState, Place, Question};
use crate::blocks::date;
use crate::control::BlockStatus;

pub(super) const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// What the words are made of.
pub(super) struct Told<'a, T> {
    pub(super) question: &'a Question,
    pub(super) tables: &'a T,
    pub(super) names: &'a BTreeMap<ServiceId, String>,
    pub(super) background: &'a Background<'a>,
    /// Its name; empty if the port is of none.
    pub(super) service: &'a str,
    pub(super) now: u64,
}

impl<T: Tables> Told<'_, T> {
    /// The steps in words, and the limits that were asked on the way.
    pub(super) fn of_steps(&self, steps: &[Step]) -> (Vec<ExplainedStep>, Vec<LimitState>) {
        let mut of: Option<(Limits, SourceKey)> = None;
        let (mut explained, mut limits) = (Vec::new(), Vec::new());
        for step in steps {
            let (name, text) = match step {
                Step::Policy(_) | Step::Parsed(Ok(Kind::Segment(_)), _) => continue,
                Step::Parsed(Ok(_), _) => ("packet", "has no ports".to_owned()),
                Step::Parsed(Err(malformed), _) => ("packet", format!("is malformed: {}", malformed.name())),
                Step::Service(id) => ("service", self.service(*id)),
                Step::Elsewhere(_) => ("destination", "is none of the service's `destinations`".to_owned()),
                Step::Rule(rule) => ("rule", self.rule(*rule)),
                Step::Block { exact, until } => ("block", self.block(*exact, *until)),
                Step::Limits(of_source, key) => {
                    of = Some((*of_source, *key));
                    ("limits", self.limits(key))
                }
                Step::Source { suspected_until, .. } => {
                    let Some(left) = suspected_until.checked_sub(self.now).filter(|left| *left > 0) else {
                        continue;
                    };
                    let left = Duration::from_secs(left.div_ceil(1_000_000_000));
                    let left = humantime::format_duration(left);
                    ("suspicion", format!("went over its limits; its packets are weighed for {left} more"))
                }
                Step::Limit { limit, within } => {
                    let Some(state) = of.and_then(|(of, key)| self.limit(*limit, *within, &of, &key)) else {
                        continue;
                    };
                    let text = said(&state, *limit);
                    limits.push(state);
                    ("limit", text)
                }
                Step::Connections { open, limit } => {
                    limits.push(LimitState {
                        limit: "open_connections".into(),
                        within: open < limit,
                        most: *limit,
                        left: limit.saturating_sub(*open),
                        full_again_seconds: 0.0,
                    });
                    let over = if open < limit { "" } else { ", NO MORE ARE LET IN" };
                    ("connections", format!("{open} of {limit} open{over}"))
                }
            };
            explained.push(ExplainedStep { step: name.into(), text });
        }
        (explained, limits)
    }

    fn service(&self, id: Option<ServiceId>) -> String {
        let port = format!("{} port {}", protocol(self.question.protocol), self.question.port);
        match id.and_then(|id| self.names.get(&id)) {
            Some(name) => {
                let slot = self.tables.epoch().live(|| self.now);
                let service = id.and_then(|id| self.tables.service(slot, id));
                let named = service.is_some_and(|service| service.has_destinations());
                let to = if named { ", at its `destinations` only" } else { "" };
                format!("{port} is guarded as {name:?}{to}")
            }
            None => format!("{port} is not guarded"),
        }
    }

    fn rule(&self, rule: Option<Rule>) -> String {
        let place = self.background.rule(self.service, self.question.source);
        let prefix =
            |list: &str| place.as_ref().map_or_else(|| format!("a prefix of `{list}`"), Place::to_string);
        let Some(rule) = rule else { return "no prefix of `allow` contains the source".into() };
        match rule.class() {
            Class::Deny => format!("the longest prefix around the source is {}", prefix("deny")),
            Class::Trusted => format!("trusted, no blocks and no limits: {}", prefix("trusted")),
            Class::Allow if rule.limits() == LimitsId::NONE => {
                format!("allowed, without limits: {}", prefix("allow"))
            }
            Class::Allow => format!("allowed: {}", prefix("allow")),
        }
    }

    fn limits(&self, key: &SourceKey) -> String {
        let address = IpAddr::from(key.address());
        // Its first address stands for all of a group.
        let group = if address == self.question.source {
            String::new()
        } else {
            format!(", for all of the group of {address}")
        };
        match self.background.limits(self.service, self.question.source) {
            Some((name, Some(place))) => format!("{name:?}, by {place}{group}"),
            Some((name, None)) => format!("{name:?}{group}"),
            None => format!("it has some{group}"),
        }
    }

    fn block(&self, exact: bool, until: End) -> String {
        let ends = match until {
            End::FOREVER => "for good".to_owned(),
            until => format!("for another {}", rounded(until.nanoseconds().saturating_sub(self.now))),
        };
        let Some(BlockStatus { block, dropped }) = self.background.block(self.service) else {
            let what = if exact { "the source is blocked" } else { "a prefix around the source is blocked" };
            return format!("{what}, {ends}");
        };
        let mut text =
            format!("{} is blocked {ends}, by {} since {}", block.net, block.by, date(block.since));
        let why = block.why();
        if !why.is_empty() {
            text += &format!(": {why}");
        }
        text + &format!("; {dropped} packets dropped")
    }

    fn limit(&self, limit: Limit, within: bool, of: &Limits, key: &SourceKey) -> Option<LimitState> {
        let state = self.tables.meter(key)?;
        let now = self.tables.limiter_now().unwrap_or(self.now);
        let (name, rate, arrival) = match limit {
            Limit::Packets => ("packets", of.packets, state.packets.load()),
            Limit::Bytes => ("bytes", of.bytes, state.bytes.load()),
            Limit::Connections => ("new_connections", of.connections, state.connections.load()),
        };
        // Of a source that was never seen the word is 0, and its whole burst is there.
        (!rate.is_unlimited()).then(|| LimitState {
            limit: name.into(),
            within,
            most: rate.left(0, now),
            left: rate.left(arrival, now),
            full_again_seconds: Duration::from_nanos(rate.full_after(arrival, now)).as_secs_f64(),
        })
    }
}

/// `12 of 20 new connections left, full again in 0.8 s`.
fn said(state: &LimitState, limit: Limit) -> String {
    let LimitState { within, most, left, full_again_seconds, .. } = state;
    let what = match limit {
        Limit::Packets => "packets",
        Limit::Bytes => "bytes",
        Limit::Connections => "new connections",
    };
    let over = if *within { "" } else { "OVER THE LIMIT: " };
    // It came from whole nanoseconds.
    match (full_again_seconds * 1e9).round() as u64 {
        0 => format!("{over}{left} of {most} {what} left"),
        nanos => format!("{over}{left} of {most} {what} left, full again in {}", rounded(nanos)),
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
