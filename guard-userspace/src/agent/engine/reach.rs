//! Policies that name a port that clients do not come through: strangers may come through another.

use std::collections::BTreeSet;

use tracing::warn;

use super::connections::tcp_ports;
use super::{Engine, lock};
use crate::config::{Policy, Protocol, Service};
use crate::sockets::Reach;

impl Engine {
    /// Tells what is new of the ways to guarded ports, and keeps all of it for the status.
    pub(super) fn note_reach(&self, reach: &Reach) {
        let policy = std::sync::Arc::clone(self.policies().live());
        let found = warnings(&policy, reach);
        let mut known = lock(&self.warnings);
        for warning in found.iter().filter(|warning| !known.contains(warning)) {
            warn!("{warning}");
        }
        *known = found;
    }
}

fn warnings(policy: &Policy, reach: &Reach) -> Vec<String> {
    let guarded = tcp_ports(policy);
    let mut warnings = Vec::new();
    for (asked, server) in &reach.detours {
        // The policy may have changed since the look.
        let Some(service) = service_of(policy, server.port()) else { continue };
        if !guarded.contains(asked) {
            warnings.push(format!(
                "clients reach {server} through port {asked} of this host, which no service guards: guard judges the port that a client asks for, so add {asked} to the ports of {:?}",
                service.name,
            ));
        }
    }
    let tcp = policy.services.iter().filter(|service| service.protocols.contains(&Protocol::Tcp));
    for (service, range) in tcp.flat_map(|service| service.ports.iter().map(move |range| (service, range))) {
        let is_in = |ports: &BTreeSet<u16>| range.clone().all(|port| ports.contains(&port));
        let unreachable: BTreeSet<u16> = reach.silent.union(&reach.loopback).copied().collect();
        if is_in(&reach.silent) {
            warnings.push(format!(
                "no server on this host listens on {} of {:?}: if clients use another port, no service guards that one",
                ports(range),
                service.name,
            ));
        } else if is_in(&unreachable) {
            warnings.push(format!(
                "the server on {} of {:?} listens on loopback only: clients come through another port, and that one is to be guarded",
                ports(range),
                service.name,
            ));
        }
    }
    warnings
}

fn ports(range: &std::ops::RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => format!("port {first}"),
        (first, last) => format!("ports {first}-{last}"),
    }
}

fn service_of(policy: &Policy, port: u16) -> Option<&Service> {
    policy.services.iter().find(|service| {
        service.protocols.contains(&Protocol::Tcp) && service.ports.iter().any(|range| range.contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "[[service]]\nname = \"a\"\nports = [8000, \"8100-8103\"]\nallow = [\"10.0.0.0/8\"]\n\
        [[service]]\nname = \"b\"\nports = [53]\nprotocols = [\"udp\"]\nallow = [\"10.0.0.0/8\"]\n";

    fn of(reach: Reach) -> Vec<String> {
        warnings(&crate::config::parse(POLICY, "guard.toml").unwrap().policy, &reach)
    }

    #[test]
    fn each_way_around_the_policy_is_named() {
        let detours = [(9000, "172.17.0.2:8000"), (9001, "[fd17::2]:8100"), (8000, "172.17.0.2:8101")];
        let detours = detours.map(|(asked, server)| (asked, server.parse().unwrap())).into();
        let found = of(Reach { detours, ..Reach::default() });
        let [first, second] = found.as_slice() else { panic!("{found:?}") };
        assert!(first.starts_with("clients reach 172.17.0.2:8000 through port 9000 of"), "{first}");
        assert!(second.starts_with("clients reach [fd17::2]:8100 through port 9001 of"), "{second}");
        assert!(second.ends_with("add 9001 to the ports of \"a\""), "{second}");
    }

    #[test]
    fn a_range_that_is_partly_in_use_is_no_doubt() {
        let silent = |ports: &[u16]| Reach { silent: ports.iter().copied().collect(), ..Reach::default() };
        assert_eq!(of(Reach::default()), [""; 0]);
        assert_eq!(of(silent(&[8100, 8101, 8103, 53])), [""; 0]);
        let found = of(silent(&[8000, 8100, 8101, 8102, 8103]));
        let [one, range] = found.as_slice() else { panic!("{found:?}") };
        assert!(one.starts_with("no server on this host listens on port 8000 of \"a\""), "{one}");
        assert!(range.starts_with("no server on this host listens on ports 8100-8103 of"), "{range}");
        let found = of(Reach { loopback: [8000].into(), ..Reach::default() });
        assert!(found[0].starts_with("the server on port 8000 of \"a\" listens on loopback"), "{found:?}");
    }
}
