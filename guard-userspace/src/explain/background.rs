//! What is known beyond the tables: where in the policy a rule is written, and who blocked a source, and why.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use guard_common::Reason;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::autoblock::Hypothetical;
use crate::blocks::Scope;
use crate::config::{Policy, Prefix, Service};
use crate::control::BlockStatus;

/// What is known to who explains. Without an agent nobody knows which file the live policy is from.
#[derive(Debug, Default)]
pub struct Background<'a> {
    pub policy: Option<&'a Policy>,
    pub file: Option<&'a Path>,
    /// The blocks of the source and of prefixes around it, the longest first.
    pub blocks: Vec<BlockStatus>,
    /// Who would have been blocked by services that only monitor.
    pub would_block: Vec<Hypothetical>,
}

/// A prefix of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub prefix: IpNet,
    /// The key that it stands under: `allow`, `deny`, `trusted`, `sources`.
    pub list: String,
    /// None: it is from a flag.
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// `10.66.0.0/16 of deny (/etc/guard/guard.toml:7)`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, list, file, line } = self;
        write!(f, "{prefix} of `{list}`")?;
        match (file, line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            _ => write!(f, " (from the command line)"),
        }
    }
}

impl Background<'_> {
    /// The block that decides, if one does, about a packet to a service (without a name: to another port).
    pub(super) fn block(&self, service: &str) -> Option<&BlockStatus> {
        self.blocks.iter().find(|known| !service.is_empty() || known.block.scope == Scope::Host)
    }

    /// What would be the block of a source, if its service enforced.
    pub(super) fn would_block(&self, service: &str, source: IpAddr) -> Option<&Hypothetical> {
        self.would_block.iter().find(|known| known.service == service && known.net.contains(&source))
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.policy?.services.iter().find(|service| service.name == name)
    }

    /// The prefix that decides whether a source may come to a service; none if there is none around it.
    pub(crate) fn rule(&self, service: &str, source: IpAddr) -> Option<Place> {
        let service = self.service(service)?;
        let trusted = longest(&self.policy?.trusted, source).map(|prefix| self.place(prefix, "trusted"));
        let rules = [("allow", &service.allow), ("deny", &service.deny)].map(|(list, prefixes)| {
            longest(prefixes, source).map(|prefix| (prefix.net.prefix_len(), self.place(prefix, list)))
        });
        let longest = rules.into_iter().flatten().max_by_key(|(length, _)| *length);
        trusted.or(longest.map(|(_, place)| place))
    }

    /// The limits of a source at a service: their name, and the prefix that gives it others than the service's.
    pub(super) fn limits(&self, service: &str, source: IpAddr) -> Option<(String, Option<Place>)> {
        let service = self.service(service)?;
        let around = service.sources.iter().filter(|limits| limits.prefix.net.contains(&source));
        match around.max_by_key(|limits| limits.prefix.net.prefix_len()) {
            Some(own) => Some((own.limits.clone(), Some(self.place(&own.prefix, "sources")))),
            None => Some((service.limits.clone()?, None)),
        }
    }

    fn place(&self, prefix: &Prefix, list: &str) -> Place {
        let file = prefix.line.and(self.file).map(|file| file.display().to_string());
        Place { prefix: prefix.net, list: list.into(), file, line: prefix.line }
    }

    /// What to do if that is not as it should be.
    pub(super) fn advice(&self, reason: Reason, service: &str, source: IpAddr) -> Option<String> {
        let limits = || {
            self.limits(service, source)
                .map_or_else(|| "the limits".into(), |(name, _)| format!("[limits.{name}]"))
        };
        let allow = || {
            let first = self.service(service).and_then(|service| service.allow.first());
            let place = first
                .map(|prefix| self.place(prefix, "allow"))
                .and_then(|place| Some((place.file?, place.line?)));
            place.map(|(file, line)| format!(" ({file}:{line})")).unwrap_or_default()
        };
        match reason {
            Reason::Blocked => {
                let block = self.block(service)?;
                Some(format!("guard unblock {}", block.block.net))
            }
            Reason::NotAllowed => {
                Some(format!("to let it in, add it to `allow` of {service:?}{}, then guard reload", allow()))
            }
            Reason::Denied => {
                let rule = self
                    .rule(service, source)
                    .map_or_else(|| "the prefix of `deny`".into(), |rule| rule.to_string());
                Some(format!("to let it in, take away {rule}, or allow a longer prefix, then guard reload"))
            }
            Reason::PacketRate | Reason::ByteRate | Reason::ConnectionRate => Some(format!(
                "if that is too little, raise {} or give it limits of its own ([[service.sources]])",
                limits()
            )),
            Reason::MaxConnections => {
                Some(format!("guard connections shows what it has open; max_connections is in {}", limits()))
            }
            Reason::Malformed
            | Reason::FragmentRate
            | Reason::NotIp
            | Reason::Unguarded
            | Reason::Fragment
            | Reason::Trusted
            | Reason::Allowed => None,
        }
    }
}

fn longest(prefixes: &[Prefix], source: IpAddr) -> Option<&Prefix> {
    let around = prefixes.iter().filter(|prefix| prefix.net.contains(&source));
    around.max_by_key(|prefix| prefix.net.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "[[service]]
name = \"web\"
ports = [8000]
allow = [\"10.0.0.0/8\",
    \"10.66.7.0/24\"]
deny = [\"10.66.0.0/16\"]
limits = \"client\"

[[service.sources]]
prefix = \"10.0.5.0/24\"
limits = \"gateway\"

[limits.client]
packets_per_second = 20000
packet_burst = 40000

[limits.gateway]
packets_per_second = 200000

[trusted]
prefixes = [\"10.0.0.9/32\"]
";

    #[test]
    fn each_source_is_traced_to_its_line() {
        let policy = crate::config::parse(POLICY, "guard.toml").unwrap().policy;
        let background = Background {
            policy: Some(&policy),
            file: Some(Path::new("guard.toml")),
            ..Background::default()
        };
        for (source, rule, limits) in [
            ("10.1.1.1", Some("10.0.0.0/8 of `allow` (guard.toml:4)"), Some(("client", None))),
            ("10.66.1.1", Some("10.66.0.0/16 of `deny` (guard.toml:6)"), Some(("client", None))),
            ("10.66.7.1", Some("10.66.7.0/24 of `allow` (guard.toml:5)"), Some(("client", None))),
            (
                "10.0.5.1",
                Some("10.0.0.0/8 of `allow` (guard.toml:4)"),
                Some(("gateway", Some("10.0.5.0/24 of `sources` (guard.toml:10)"))),
            ),
            ("10.0.0.9", Some("10.0.0.9/32 of `trusted` (guard.toml:21)"), Some(("client", None))),
            ("192.0.2.1", None, Some(("client", None))),
        ] {
            let address = source.parse().unwrap();
            let found = background.rule("web", address).map(|place| place.to_string());
            assert_eq!(found.as_deref(), rule, "{source}");
            let found = background
                .limits("web", address)
                .map(|(name, place)| (name, place.map(|place| place.to_string())));
            let limits = limits.map(|(name, place)| (name.to_owned(), place.map(str::to_owned)));
            assert_eq!(found, limits, "{source}");
        }
        assert_eq!(background.rule("other", "10.1.1.1".parse().unwrap()), None);
    }
}
