//! Interfaces: whether they exist is not the policy's to know, but the place of one that does not is.

use toml::de::{DeTable, DeValue};

use super::Report;
use super::findings::{Fault, Findings, Source, Span};

/// A report on an interface of a policy file: `message` at the place where the file names it.
///
/// # Errors
/// Always: the report is the error.
pub fn refuse_interface(text: &str, file: &str, name: &str, message: &str) -> Result<(), Report> {
    let mut findings = Findings::new(Source::file(file, text));
    let span = span_of(text, name).unwrap_or(0..0);
    findings.error(&span, Fault::new(message).help("`ip -brief link` lists the interfaces of this host"));
    findings.finish().map(drop)
}

fn span_of(text: &str, name: &str) -> Option<Span> {
    let (document, _) = DeTable::parse_recoverable(text);
    let DeValue::Table(attach) = document.get_ref().get("attach")?.get_ref() else { return None };
    let DeValue::Array(interfaces) = attach.get("interfaces")?.get_ref() else { return None };
    let is_it = |value: &DeValue<'_>| matches!(value, DeValue::String(text) if *text == name);
    interfaces.iter().find(|value| is_it(value.get_ref())).map(toml::Spanned::span)
}
