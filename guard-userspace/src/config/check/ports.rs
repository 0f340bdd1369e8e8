//! Ports that two services claim.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::config::findings::{Fault, Findings, Span};
use crate::config::keyword::Protocol;
use crate::config::units;
use crate::config::written::WrittenService;

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
