//! The services.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeValue;

use super::table::{self, Table};
use super::value::Entry;
use super::{name_of, tables};
use crate::config::findings::{Fault, Findings};
use crate::config::keyword::{Protocol, ServiceMode};
use crate::config::units;
use crate::config::written::{WrittenService, WrittenSource};

pub(super) fn read_all(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<WrittenService> {
    let tables = tables(findings, entry, &table::SERVICE);
    tables.iter().map(|table| read(findings, table)).collect()
}

fn read(findings: &mut Findings<'_>, table: &Table<'_, '_>) -> WrittenService {
    let without_name =
        || Fault::new("this service has no name").help("add name = \"vllm\"; metrics and messages use it");
    let name = table.require(findings, "name", without_name).and_then(|entry| name_of(findings, entry));
    let mut service = WrittenService {
        span: table.span.clone(),
        name,
        ports: Vec::new(),
        protocols: vec![Protocol::Tcp],
        mode: ServiceMode::default(),
        allow: Vec::new(),
        deny: Vec::new(),
        destinations: Vec::new(),
        limits: None,
        sources: Vec::new(),
    };
    let label = service.label();
    let without_ports = || Fault::new(format!("{label} has no ports")).help("add ports = [8000]");
    if let Some(entry) = table.require(findings, "ports", without_ports) {
        service.ports = ports(findings, entry);
    }
    if let Some(entry) = table.get("protocols") {
        service.protocols = protocols(findings, entry);
    }
    if let Some(mode) = table.get("mode").and_then(|entry| entry.keyword(findings)) {
        service.mode = mode;
    }
    let without_allow = || Fault::new(format!("{label} has no allow list: nobody could reach it")).help(WHOM);
    if let Some(entry) = table.require(findings, "allow", without_allow) {
        if entry.is_empty_array() {
            entry.complain(
                findings,
                Fault::new("the list is empty: nobody could reach the service").help(WHOM),
            );
        }
        service.allow = entry.prefixes(findings);
    }
    service.deny = table.get("deny").map(|entry| entry.prefixes(findings)).unwrap_or_default();
    service.destinations =
        table.get("destinations").map(|entry| entry.prefixes(findings)).unwrap_or_default();
    service.limits = table.get("limits").and_then(|entry| limits_name(findings, entry));
    service.sources = table.get("sources").map(|entry| sources(findings, entry)).unwrap_or_default();
    service
}

const WHOM: &str = "list who may: allow = [\"10.0.0.0/8\"]; everyone is allow = [\"0.0.0.0/0\", \"::/0\"]";

fn ports(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<Spanned<RangeInclusive<u16>>> {
    let array = entry.array(findings, "an array of ports such as [8000, \"8100-8103\"]");
    if entry.is_empty_array() {
        entry.complain(
            findings,
            Fault::new("the list is empty: nothing would be guarded").help("write [8000]"),
        );
    }
    entry.each(array, |entry| {
        let span = entry.value.span();
        let expected = "a port such as 8000 or a range such as \"8100-8103\"";
        let ports = match entry.value.get_ref() {
            DeValue::String(text) => findings.keep(&span, units::parse_ports(text))?,
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                let number = entry.number(findings, expected)?;
                let port = findings.keep(&span, units::port(number))?;
                port..=port
            }
        };
        Some(Spanned::new(span, ports))
    })
}

fn protocols(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<Protocol> {
    let array = entry.array(findings, "an array such as [\"tcp\"] or [\"tcp\", \"udp\"]");
    if entry.is_empty_array() {
        let fault = Fault::new("the list is empty: nothing would be guarded");
        entry.complain(findings, fault.help("write [\"tcp\"], or leave the key out"));
    }
    let mut protocols: Vec<Protocol> = entry.each(array, |entry| entry.keyword(findings));
    protocols.sort();
    protocols.dedup();
    protocols
}

fn sources(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<WrittenSource> {
    let tables = tables(findings, entry, &table::SERVICE_SOURCES);
    let read = |table: &Table<'_, '_>| {
        let without = |key, example| {
            move || {
                Fault::new(format!("this entry of sources has no {key}"))
                    .help(format!("add {key} = {example}"))
            }
        };
        let prefix = table.require(findings, "prefix", without("prefix", "\"10.0.5.0/24\""));
        let limits =
            table.require(findings, "limits", without("limits", "\"NAME\", of a table [limits.NAME]"));
        let prefix = prefix.and_then(|entry| entry.prefix(findings));
        let limits = limits.and_then(|entry| limits_name(findings, entry));
        Some(WrittenSource { prefix: prefix?, limits: limits? })
    };
    tables.iter().filter_map(read).collect()
}

/// The name of limits. Whether there are any of that name is not known yet.
fn limits_name(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Option<Spanned<String>> {
    let text = entry.string(findings, "the name of a table [limits.NAME]")?;
    Some(Spanned::new(entry.value.span(), text.into()))
}
