//! Names that are given twice, not at all, or in vain.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use crate::config::findings::{Fault, Findings, Span};
use crate::config::read::nearest;
use crate::config::written::Written;

pub(super) fn check(findings: &mut Findings<'_>, written: &Written) {
    service_names(findings, written);
    limits_names(findings, written);
}

fn service_names(findings: &mut Findings<'_>, written: &Written) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for name in written.services.iter().filter_map(|service| service.name.as_ref()) {
        if let Some(first) = seen.get(name.get_ref().as_str()) {
            let place = findings.place(first);
            let fault =
                Fault::new(format!("another service has the name {:?} already ({place})", name.get_ref()));
            findings.error(&name.span(), fault.help("give each service a name of its own"));
        } else {
            seen.insert(name.get_ref(), name.span());
        }
    }
}

fn limits_names(findings: &mut Findings<'_>, written: &Written) {
    let defined: BTreeSet<&str> =
        written.limits.iter().map(|limits| limits.name.get_ref().as_str()).collect();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let of_sources =
        written.services.iter().flat_map(|service| &service.sources).map(|source| &source.limits);
    let of_services = written.services.iter().filter_map(|service| service.limits.as_ref());
    for name in of_services.chain(of_sources) {
        used.insert(name.get_ref());
        if !defined.contains(name.get_ref().as_str()) {
            undefined(findings, name, &defined);
        }
    }
    for limits in written.limits.iter().filter(|limits| !used.contains(limits.name.get_ref().as_str())) {
        let name = limits.name.get_ref();
        let fault = Fault::new(format!("nothing uses the limits {name:?}"));
        findings.warn(
            &limits.name.span(),
            fault.help(format!("add limits = {name:?} to a service, or remove them")),
        );
    }
}

fn undefined(findings: &mut Findings<'_>, name: &Spanned<String>, defined: &BTreeSet<&str>) {
    let fault = Fault::new(format!("there are no limits {:?}", name.get_ref()));
    let help = match nearest(name.get_ref(), defined.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("add a table [limits.{}]", name.get_ref()),
    };
    findings.error(&name.span(), fault.help(help));
}
