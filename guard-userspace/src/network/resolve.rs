//! From the names of the policy to interfaces that exist.

use std::collections::BTreeSet;

use glob::Pattern;

use super::{Link, Network};
use crate::config::{self, DEFAULT_ROUTE, Source};

/// What the policy names and this host does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("there is no interface {name:?}; this host has {}", .existing.join(", "))]
    Name { name: String, existing: Vec<String> },
    #[error("{pattern:?} is not a pattern: {reason}")]
    BadPattern { pattern: String, reason: String },
    #[error("no interface matches {pattern:?}; this host has {}", .existing.join(", "))]
    Pattern { pattern: String, existing: Vec<String> },
    #[error(
        "this host has no default route: guard waits for one; name the interface instead of \"default-route\" to guard it at once"
    )]
    NoDefaultRoute,
}

impl Missing {
    /// Whether it may come by itself: no name was mistyped.
    pub const fn is_awaited(&self) -> bool {
        matches!(self, Self::NoDefaultRoute)
    }
}

/// The indices of the interfaces that a name, a pattern or `default-route` stands for.
///
/// # Errors
/// When it stands for none.
pub fn resolve(wanted: &str, network: &Network) -> Result<BTreeSet<u32>, Missing> {
    let existing = || network.links.iter().map(|link| link.name.clone()).collect();
    if wanted == DEFAULT_ROUTE {
        // Loopback does not come to XDP as other traffic does; whoever wants it names it.
        let found = indices(network, |link| !link.is_loopback && network.uplinks.contains(&link.index));
        return if found.is_empty() { Err(Missing::NoDefaultRoute) } else { Ok(found) };
    }
    let is_pattern = wanted.contains(['*', '?', '[']);
    let found = if is_pattern {
        let bad = |error: glob::PatternError| Missing::BadPattern {
            pattern: wanted.into(),
            reason: error.msg.into(),
        };
        let pattern = Pattern::new(wanted).map_err(bad)?;
        indices(network, |link| !link.is_loopback && pattern.matches(&link.name))
    } else {
        indices(network, |link| link.name == wanted)
    };
    match (found.is_empty(), is_pattern) {
        (false, _) => Ok(found),
        (true, true) => Err(Missing::Pattern { pattern: wanted.into(), existing: existing() }),
        (true, false) => Err(Missing::Name { name: wanted.into(), existing: existing() }),
    }
}

fn indices(network: &Network, is_meant: impl Fn(&Link) -> bool) -> BTreeSet<u32> {
    network.links.iter().filter(|link| is_meant(link)).map(|link| link.index).collect()
}

/// Refuses a policy of which something is missing that must not be: `may_miss` says of each entry whether it may. A file's have a place in
/// it, a flag's have their flag.
///
/// # Errors
/// With the first entry that stands for no interface.
pub fn check(
    source: &Source,
    network: &Network,
    may_miss: impl Fn(&str, &Missing) -> bool,
) -> anyhow::Result<()> {
    for name in &source.checked.policy.attach.interfaces {
        let Err(missing) = resolve(name, network) else { continue };
        if may_miss(name, &missing) {
            continue;
        }
        let message = format!(
            "{missing}; with allow_missing = true in [attach], or --allow-missing, guard waits for it"
        );
        match &source.file {
            _ if source.flags_name_interfaces => anyhow::bail!("--interface {name}: {message}"),
            Some(file) => {
                let file = file.display().to_string();
                config::refuse_interface(&source.text, &file, name, &message)?;
            }
            None => anyhow::bail!(message),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let link =
            |index, name: &str| Link { index, name: name.into(), is_loopback: index == 1, ..Link::default() };
        let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "lan0")];
        Network { links, uplinks: BTreeSet::from([1, 3]), ..Network::default() }
    }

    #[test]
    fn names_patterns_and_the_default_route_stand_for_interfaces() {
        let found = |wanted| resolve(wanted, &network()).unwrap();
        assert_eq!(found("eth0"), BTreeSet::from([2]));
        assert_eq!(found("eth*"), BTreeSet::from([2, 3]));
        assert_eq!(found("*"), BTreeSet::from([2, 3, 4]), "loopback has to be named");
        assert_eq!(found("lo"), BTreeSet::from([1]));
        assert_eq!(found(DEFAULT_ROUTE), BTreeSet::from([3]), "loopback is no uplink");
    }

    #[test]
    fn what_is_missing_is_told_with_what_is_there() {
        let missing = |wanted| resolve(wanted, &network()).unwrap_err();
        let error = missing("no-such-if").to_string();
        assert!(error.contains("no-such-if") && error.contains("eth0"), "{error}");
        assert!(missing("x*").to_string().contains("no interface matches"));
        assert!(matches!(missing("[x"), Missing::BadPattern { .. }));
        let without = Network { uplinks: BTreeSet::from([1]), ..network() };
        let error = resolve(DEFAULT_ROUTE, &without).unwrap_err();
        assert!(error.is_awaited(), "{error}");
    }
}
