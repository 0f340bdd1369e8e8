//! From the text of a policy file to what is written there.
//!
//! Reading goes on after an error, so that one run of `guard check` finds all of them.

mod capacity;
mod limits;
mod sections;
mod service;
mod syntax;
mod table;
mod value;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) use sections::{parse_interface, parse_listen};
pub(super) use value::nearest;

use self::table::{Kind, Table};
use self::value::Entry;
use super::findings::{Fault, Findings, Span};
use super::policy::Policy;
use super::written::Written;

/// Reads a policy; none where it is no TOML.
pub(super) fn read(findings: &mut Findings<'_>, text: &str) -> Option<Written> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax::report(findings, text, errors);
        return None;
    }
    let root = Table::new(findings, &table::ROOT, 0..0, document.get_ref());
    let no_services = root.get("service").is_some_and(|entry| entry.is_empty_array());
    if no_services || !root.seems_to_have("service") {
        let span = root.get("service").map_or(0..0, |entry| entry.value.span());
        findings.error(
            &span,
            Fault::new("the policy has no service: nothing would be guarded")
                .help("add a [[service]] with name, ports and allow"),
        );
    }
    let services = root.get("service").map(|entry| service::read_all(findings, entry)).unwrap_or_default();
    let limits = root.get("limits").map(|entry| limits::read_all(findings, entry)).unwrap_or_default();
    let trusted = root
        .section(findings, "trusted", &table::TRUSTED)
        .and_then(|table| table.get("prefixes"))
        .map(|entry| entry.prefixes(findings))
        .unwrap_or_default();
    let (autoblock, autoblock_connections) = sections::autoblock(findings, &root);
    let rest = Policy {
        attach: sections::attach(findings, &root),
        source: sections::source(findings, &root),
        autoblock,
        capacity: capacity::read(findings, &root),
        metrics: sections::metrics(findings, &root),
        log: sections::log(findings, &root),
        ..Policy::default()
    };
    Some(Written { services, limits, trusted, autoblock_connections, rest })
}

/// The tables of an array of tables.
fn tables<'v, 'i>(findings: &mut Findings<'_>, entry: Entry<'v, 'i>, kind: &Kind) -> Vec<Table<'v, 'i>> {
    let expected = format!("tables, each under a header {}", kind.header);
    if let DeValue::Table(_) = entry.value.get_ref() {
        let single = kind.header.replace("[[", "[").replace("]]", "]");
        let fault = Fault::new(format!("expected {expected}, found one table"))
            .help(format!("write {} instead of {single}", kind.header));
        entry.complain(findings, fault);
        return Vec::new();
    }
    let array = entry.array(findings, &expected);
    entry.each(array, |entry| {
        let entries = entry.table(findings, &expected)?;
        Some(Table::new(findings, kind, entry.value.span(), entries))
    })
}

/// A name of a service or of limits: what a label of a metric, a flag and a TOML key can all hold.
fn name(findings: &mut Findings<'_>, value: &str, span: Span) -> Option<Spanned<String>> {
    const MAX: usize = 63;
    let fault = Fault::about(
        format!("{value:?}"),
        match value {
            "" => "a name cannot be empty".into(),
            name if name.len() > MAX => {
                format!("a name has at most {MAX} bytes; this one has {}", name.len())
            }
            name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) => {
                return Some(Spanned::new(span, name.into()));
            }
            _ => "not a name".into(),
        },
    );
    findings.error(&span, fault.help("names are made of letters, digits, \"_\", \".\" and \"-\""));
    None
}

fn name_of(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Option<Spanned<String>> {
    let text = entry.string(findings, "a name")?;
    name(findings, text, entry.value.span())
}
