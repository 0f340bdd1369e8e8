//! How the parts of a policy fit together.

mod autoblock;
mod names;
mod ports;
mod prefixes;
mod sources;
mod tree;
mod trusted;

use guard_common::abi::{LimitsId, ServiceId};

use super::findings::{Fault, Findings};
use super::written::Written;
use crate::local_ports::LocalPorts;

/// Checks what the readers cannot see: one part of the policy against another, and against the host.
pub(super) fn check(findings: &mut Findings<'_>, written: &Written, local: &LocalPorts) {
    count(findings, written);
    names::check(findings, written);
    ports::check(findings, &written.services);
    ports::check_wide(findings, &written.services);
    ports::check_local(findings, &written.services, local);
    let trusted = trusted::check(findings, written);
    autoblock::check(findings, written, &trusted);
    for service in &written.services {
        prefixes::check(findings, service, &trusted);
        sources::check(findings, service, written.rest.source);
    }
}

/// Number 0 of services and limits stands for none.
const MAX_SERVICES: usize = ServiceId::COUNT as usize - 1;
const MAX_LIMITS: usize = LimitsId::COUNT as usize - 1;

fn count(findings: &mut Findings<'_>, written: &Written) {
    if let Some(service) = written.services.get(MAX_SERVICES) {
        let count = written.services.len();
        let fault = Fault::new(format!("{count} services are more than guard can hold: {MAX_SERVICES}"));
        findings
            .error(&service.span, fault.help("services with the same lists can be one, with several ports"));
    }
    if written.limits.len() > MAX_LIMITS
        && let Some(last) = written.limits.iter().max_by_key(|limits| limits.name.span().start)
    {
        let count = written.limits.len();
        let fault =
            Fault::new(format!("{count} different limits are more than guard can hold: {MAX_LIMITS}"));
        findings.error(&last.name.span(), fault.help("services and sources can share limits"));
    }
}
