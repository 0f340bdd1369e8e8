//! From the names of the policy to interfaces that exist.

use std::collections::BTreeSet;
use std::fs;

use glob::Pattern;
use nix::net::if_::if_nameindex;

use crate::config::{self, Source};

/// A name of the policy that no interface has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownInterface {
    #[error("there is no interface {name:?}; this host has {}", .existing.join(", "))]
    Name { name: String, existing: Vec<String> },
    #[error("{pattern:?} is not a pattern: {reason}")]
    BadPattern { pattern: String, reason: String },
    #[error("no interface matches {pattern:?}; this host has {}", .existing.join(", "))]
    Pattern { pattern: String, existing: Vec<String> },
    #[error("this host has no default route: name the interface instead of \"default-route\"")]
    NoDefaultRoute,
    #[error("the interfaces of this host cannot be listed: {0}")]
    List(String),
}

const DEFAULT_ROUTE: &str = "default-route";

/// The interfaces that a name, a pattern or `default-route` stands for.
///
/// # Errors
/// When it stands for none.
pub fn resolve(wanted: &str) -> Result<BTreeSet<String>, UnknownInterface> {
    let existing = existing()?;
    if wanted == DEFAULT_ROUTE {
        let found: BTreeSet<_> =
            default_routes().into_iter().filter(|name| existing.contains(name)).collect();
        return if found.is_empty() { Err(UnknownInterface::NoDefaultRoute) } else { Ok(found) };
    }
    let is_pattern = wanted.contains(['*', '?', '[']);
    let found: BTreeSet<_> = if is_pattern {
        let bad = |error: glob::PatternError| UnknownInterface::BadPattern {
            pattern: wanted.into(),
            reason: error.msg.into(),
        };
        let pattern = Pattern::new(wanted).map_err(bad)?;
        // Loopback does not come to XDP as other traffic does; whoever wants it names it.
        existing.iter().filter(|name| *name != "lo" && pattern.matches(name)).cloned().collect()
    } else {
        existing.iter().filter(|name| *name == wanted).cloned().collect()
    };
    match (found.is_empty(), is_pattern) {
        (false, _) => Ok(found),
        (true, true) => Err(UnknownInterface::Pattern { pattern: wanted.into(), existing }),
        (true, false) => Err(UnknownInterface::Name { name: wanted.into(), existing }),
    }
}

/// Whether the interfaces that a policy names are there. A file's have a place in it, a flag's have their flag. Patterns and
/// `default-route` may match later, and so may a name that `may_return`: guard was on it before.
///
/// # Errors
/// With the interface that is not there.
pub fn check(source: &Source, may_return: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for name in &source.checked.policy.attach.interfaces {
        let Err(error) = resolve(name) else { continue };
        if may_return(name) || !matches!(error, UnknownInterface::Name { .. }) {
            continue;
        }
        match &source.file {
            _ if source.flags_name_interfaces => anyhow::bail!("--interface {name}: {error}"),
            Some(file) => {
                let file = file.display().to_string();
                config::refuse_interface(&source.text, &file, name, &error.to_string())?;
            }
            None => return Err(error.into()),
        }
    }
    Ok(())
}

fn existing() -> Result<Vec<String>, UnknownInterface> {
    let interfaces = if_nameindex().map_err(|error| UnknownInterface::List(error.to_string()))?;
    Ok(interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

/// The interfaces of the default routes of IPv4 and IPv6.
fn default_routes() -> Vec<String> {
    let v4 = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    v4.lines().filter_map(default_route_v4).chain(v6.lines().filter_map(default_route_v6)).collect()
}

/// A line of /proc/net/route: interface, destination, gateway, flags, …, mask; numbers in hexadecimal.
fn default_route_v4(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    match fields[..] {
        [interface, "00000000", _, _, _, _, _, "00000000", ..] => Some(interface.into()),
        _ => None,
    }
}

/// A line of /proc/net/ipv6_route: destination, its length, …, interface.
fn default_route_v6(line: &str) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    match fields[..] {
        ["00000000000000000000000000000000", "00", .., interface] => Some(interface.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = [
            ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", None),
            ("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", Some("eth0")),
            ("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", None),
            ("", None),
        ];
        for (line, expected) in v4 {
            assert_eq!(default_route_v4(line).as_deref(), expected, "{line:?}");
        }
        let zero = "0".repeat(32);
        let default =
            format!("{zero} 00 {zero} 00 fe80000000000000 00000400 00000001 00000000 00000003 eth0");
        let other = format!("fd00{} 40 {zero} 00 fe80000000000000 00000400 1 0 3 eth0", "0".repeat(28));
        assert_eq!(default_route_v6(&default).as_deref(), Some("eth0"));
        assert_eq!(default_route_v6(&other), None);
    }

    #[test]
    fn loopback_is_found_by_name_and_by_no_pattern() {
        assert_eq!(resolve("lo").unwrap(), BTreeSet::from(["lo".to_owned()]));
        assert!(resolve("l*").is_err());
        let error = resolve("no-such-if").unwrap_err().to_string();
        assert!(error.contains("no-such-if") && error.contains("lo"), "{error}");
    }
}
