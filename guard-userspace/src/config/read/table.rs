//! Tables of a policy file: which keys they know.

use toml::de::DeTable;

use super::value::{Entry, nearest};
use crate::config::findings::{Fault, Findings, Span};

/// A kind of table: how it is written, and its keys.
pub(super) struct Kind {
    pub(super) header: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) const ROOT: Kind = Kind {
    header: "the policy",
    keys: &["attach", "service", "limits", "source", "trusted", "autoblock", "capacity", "metrics", "log"],
};
pub(super) const ATTACH: Kind =
    Kind { header: "[attach]", keys: &["interfaces", "mode", "on_exit", "allow_missing"] };
pub(super) const SERVICE: Kind = Kind {
    header: "[[service]]",
    keys: &["name", "ports", "protocols", "mode", "allow", "deny", "destinations", "limits", "sources"],
};
pub(super) const SERVICE_SOURCES: Kind = Kind { header: "[[service.sources]]", keys: &["prefix", "limits"] };
pub(super) const LIMITS: Kind = Kind {
    header: "[limits.NAME]",
    keys: &[
        "packets_per_second",
        "packet_burst",
        "bytes_per_second",
        "byte_burst",
        "connections_per_second",
        "connection_burst",
        "max_connections",
    ],
};
pub(super) const SOURCE: Kind = Kind { header: "[source]", keys: &["ipv4_prefix", "ipv6_prefix"] };
pub(super) const TRUSTED: Kind = Kind { header: "[trusted]", keys: &["prefixes"] };
pub(super) const AUTOBLOCK: Kind = Kind {
    header: "[autoblock]",
    keys: &[
        "enabled",
        "connections",
        "refused_per_minute",
        "limited_per_minute",
        "duration",
        "max_duration",
        "forget_after",
        "scope",
        "kill",
        "never",
    ],
};
pub(super) const CAPACITY: Kind = Kind { header: "[capacity]", keys: &["blocks", "sources", "connections"] };
pub(super) const METRICS: Kind = Kind { header: "[metrics]", keys: &["listen", "top_sources"] };
pub(super) const LOG: Kind = Kind { header: "[log]", keys: &["level", "format"] };

const KINDS: [&Kind; 11] = [
    &SERVICE,
    &LIMITS,
    &ATTACH,
    &AUTOBLOCK,
    &CAPACITY,
    &SOURCE,
    &TRUSTED,
    &METRICS,
    &LOG,
    &SERVICE_SOURCES,
    &ROOT,
];

/// A table of a known kind. Keys that the kind does not have are reported when it is made.
pub(super) struct Table<'v, 'i> {
    pub(super) span: Span,
    entries: &'v DeTable<'i>,
    /// Keys that are there under a wrong name, so it seems.
    misspelt: Vec<&'static str>,
}

impl<'v, 'i> Table<'v, 'i> {
    pub(super) fn new(
        findings: &mut Findings<'_>,
        kind: &Kind,
        span: Span,
        entries: &'v DeTable<'i>,
    ) -> Self {
        let mut misspelt = Vec::new();
        for key in entries.keys().filter(|key| !kind.keys.contains(&&**key.get_ref())) {
            let name = key.get_ref();
            let near = nearest(name, kind.keys.iter().copied());
            misspelt.extend(near);
            let fault = Fault::new(format!("unknown key {name:?} in {}", kind.header));
            findings.error(&key.span(), fault.help(advice(kind, name, near)));
        }
        Self { span, entries, misspelt }
    }

    /// Whether the key is there, were it under a wrong name.
    pub(super) fn seems_to_have(&self, key: &str) -> bool {
        self.entries.contains_key(key) || self.misspelt.contains(&key)
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Entry<'v, 'i>> {
        self.entries.get(key).map(|value| Entry { key, value })
    }

    /// A table that stands for itself: `[attach]`.
    pub(super) fn section(
        &self,
        findings: &mut Findings<'_>,
        key: &'static str,
        kind: &Kind,
    ) -> Option<Self> {
        let entry = self.get(key)?;
        let entries = entry.table(findings, &format!("a table {}", kind.header))?;
        Some(Self::new(findings, kind, entry.value.span(), entries))
    }

    /// Like [`get`](Self::get), with an error where the key is missing.
    pub(super) fn require(
        &self,
        findings: &mut Findings<'_>,
        key: &'static str,
        missing: impl FnOnce() -> Fault,
    ) -> Option<Entry<'v, 'i>> {
        if !self.seems_to_have(key) {
            findings.error(&self.span, missing());
        }
        self.get(key)
    }
}

fn advice(kind: &Kind, name: &str, near: Option<&str>) -> String {
    let other = KINDS.iter().find(|other| other.keys.contains(&name));
    match (near, other) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, Some(other)) => format!("{name:?} belongs into {}", other.header),
        (None, None) => format!("{} knows {}", kind.header, kind.keys.join(", ")),
    }
}
