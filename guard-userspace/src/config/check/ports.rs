//! Ports that two services claim, or a service and the kernel.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::findings::{Fault, Findings, Span};
use crate::config::keyword::Protocol;
use crate::config::units;
use crate::config::written::WrittenService;
use crate::local_ports::LocalPorts;

pub(super) fn check(findings: &mut Findings<'_>, services: &[WrittenService]) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        // The service of each port.
        let mut owners: Vec<Option<&WrittenService>> = vec![None; 1 << 16];
        for service in services.iter().filter(|service| service.protocols.contains(&protocol)) {
            let mut taken: BTreeMap<usize, (&WrittenService, Vec<u16>)> = BTreeMap::new();
            let ports = units::merge_ports(service.ports.iter().map(|ports| ports.get_ref().clone()));
            for port in ports.into_iter().flatten() {
                let Some(owner) = owners.get_mut(usize::from(port)) else { continue };
                match *owner {
                    None => *owner = Some(service),
                    Some(other) => taken.entry(other.span.start).or_insert((other, Vec::new())).1.push(port),
                }
            }
            for (other, ports) in taken.into_values() {
                report(findings, protocol, service, other, &ports);
            }
        }
    }
}

/// Ports of other programs that a wide range takes in by accident, and what is cut off then.
const BY_ACCIDENT: [(Protocol, u16, &str); 4] = [
    (Protocol::Tcp, 22, "ssh"),
    (Protocol::Udp, 68, "the answers of DHCP servers"),
    (Protocol::Udp, 123, "the answers of time servers"),
    (Protocol::Udp, 546, "the answers of DHCPv6 servers"),
];

/// Warns of ranges that take in what the host itself depends on. A service that names such a port alone means it.
pub(super) fn check_wide(findings: &mut Findings<'_>, services: &[WrittenService]) {
    for service in services {
        for (protocol, port, what) in BY_ACCIDENT {
            let is_named = service.ports.iter().any(|ports| *ports.get_ref() == (port..=port));
            let is_in_range = service.ports.iter().any(|ports| ports.get_ref().contains(&port));
            if is_named || !is_in_range || !service.protocols.contains(&protocol) {
                continue;
            }
            let fault = Fault::new(format!(
                "{}: the range takes in port {port} ({}), so guard drops {what} from every source that allow does not name",
                service.label(),
                protocol.name(),
            ));
            let help =
                format!("leave {port} out of the range, or name it as a port of its own if you mean it");
            findings.warn(&place_of(service, port), fault.help(help));
        }
    }
}

/// Guard cannot tell the answers to a connection that this host has opened from a guarded port from the packets of a client.
pub(super) fn check_local(findings: &mut Findings<'_>, services: &[WrittenService], local: &LocalPorts) {
    for service in services {
        let guarded = units::merge_ports(service.ports.iter().map(|ports| ports.get_ref().clone()));
        let common: Vec<u16> = guarded.iter().cloned().flatten().filter(|port| local.has(*port)).collect();
        let (Some(range), Some(first)) = (&local.range, common.first()) else { continue };
        let common = units::merge_ports(common.iter().map(|port| *port..=*port));
        let reserved = units::merge_ports(local.reserved.iter().cloned().chain(guarded));
        let fault = Fault::new(format!(
            "{}: the kernel opens connections of this host from port {} too (net.ipv4.ip_local_port_range is {}), and guard judges the answers to them as packets of clients",
            service.label(),
            list(&common),
            units::port_range(range),
        ));
        let help = format!("reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={}", list(&reserved));
        findings.warn(&place_of(service, *first), fault.help(help));
    }
}

/// As policies and the kernel write ports.
fn list(ports: &[RangeInclusive<u16>]) -> String {
    ports.iter().map(units::port_range).collect::<Vec<_>>().join(",")
}

fn report(
    findings: &mut Findings<'_>,
    protocol: Protocol,
    service: &WrittenService,
    other: &WrittenService,
    ports: &[u16],
) {
    let Some(first) = ports.first() else { return };
    let span = place_of(service, *first);
    let other_place = findings.place(&place_of(other, *first));
    let common: Vec<String> =
        units::merge_ports(ports.iter().map(|port| *port..=*port)).iter().map(units::port_range).collect();
    let fault = Fault::new(format!(
        "port {} ({}) belongs to {} already ({other_place})",
        common.join(", "),
        protocol.name(),
        other.label(),
    ));
    findings.error(&span, fault.help("a port can have one service only: remove it from one of the two"));
}

/// Where a service names a port.
fn place_of(service: &WrittenService, port: u16) -> Span {
    let names = |ports: &&toml::Spanned<RangeInclusive<u16>>| ports.get_ref().contains(&port);
    service.ports.iter().find(names).map_or_else(|| service.span.clone(), toml::Spanned::span)
}
