//! A policy as it was written: each part is right by itself, but how they fit together is not yet known.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Spanned;

use super::findings::{Findings, Span};
use super::keyword::{Protocol, ServiceMode};
use super::policy::{Limits, Policy, Prefix, Service, SourceLimits};
use super::units;

/// What names nothing else of the policy is in `rest` already.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) services: Vec<WrittenService>,
    pub(super) limits: Vec<WrittenLimits>,
    pub(super) trusted: Vec<Spanned<IpNet>>,
    /// Where `connections` of `[autoblock]` stands.
    pub(super) autoblock_connections: Option<Span>,
    pub(super) rest: Policy,
}

#[derive(Debug)]
pub(super) struct WrittenService {
    /// Its header.
    pub(super) span: Span,
    pub(super) name: Option<Spanned<String>>,
    pub(super) ports: Vec<Spanned<RangeInclusive<u16>>>,
    pub(super) protocols: Vec<Protocol>,
    pub(super) mode: ServiceMode,
    pub(super) allow: Vec<Spanned<IpNet>>,
    pub(super) deny: Vec<Spanned<IpNet>>,
    pub(super) destinations: Vec<Spanned<IpNet>>,
    pub(super) limits: Option<Spanned<String>>,
    pub(super) sources: Vec<WrittenSource>,
}

#[derive(Debug)]
pub(super) struct WrittenSource {
    pub(super) prefix: Spanned<IpNet>,
    pub(super) limits: Spanned<String>,
}

#[derive(Debug)]
pub(super) struct WrittenLimits {
    pub(super) name: Spanned<String>,
    pub(super) limits: Limits,
    /// Where `max_connections` stands.
    pub(super) max_connections: Option<Span>,
}

impl Written {
    /// The policy, with the lines of its prefixes. It is one only if nothing was found wrong.
    pub(super) fn into_policy(self, findings: &Findings<'_>) -> Policy {
        let prefix = |net: Spanned<IpNet>| Prefix { line: findings.line(&net.span()), net: net.into_inner() };
        let prefixes = |nets: Vec<Spanned<IpNet>>| nets.into_iter().map(prefix).collect();
        let service = |written: WrittenService| Service {
            name: written.name.map(Spanned::into_inner).unwrap_or_default(),
            ports: units::merge_ports(written.ports.into_iter().map(Spanned::into_inner)),
            protocols: written.protocols,
            mode: written.mode,
            allow: prefixes(written.allow),
            deny: prefixes(written.deny),
            destinations: prefixes(written.destinations),
            limits: written.limits.map(Spanned::into_inner),
            sources: written
                .sources
                .into_iter()
                .map(|source| SourceLimits {
                    prefix: prefix(source.prefix),
                    limits: source.limits.into_inner(),
                })
                .collect(),
        };
        Policy {
            services: self.services.into_iter().map(service).collect(),
            limits: self.limits.into_iter().map(|named| (named.name.into_inner(), named.limits)).collect(),
            trusted: prefixes(self.trusted),
            ..self.rest
        }
    }
}

impl WrittenService {
    /// How messages call it.
    pub(super) fn label(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| "this service".into(), |name| format!("service {:?}", name.get_ref()))
    }
}
