//! The tables that stand for themselves.

use std::net::SocketAddr;

use super::table::{self, Table};
use super::value::Entry;
use crate::config::findings::{Fault, Findings, Span};
use crate::config::policy::{Attach, Autoblock, DEFAULT_ROUTE, Log, Metrics, Prefix, SourceGrouping};
use crate::config::units;

pub(super) fn attach(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> Attach {
    let mut attach = Attach::default();
    let table = root.section(findings, "attach", &table::ATTACH);
    if !table.as_ref().is_some_and(|table| table.seems_to_have("interfaces")) {
        let span = table.as_ref().map_or(0..0, |table| table.span.clone());
        let fault = Fault::new(
            "no interfaces are named: only those of the default route are guarded, \
             unless --interface names others",
        );
        findings.warn(
            &span,
            fault.help(format!(
                "add interfaces = [\"eth0\"] to [attach], or [\"{DEFAULT_ROUTE}\"] if that is meant"
            )),
        );
    }
    let Some(table) = table else { return attach };
    if let Some(entry) = table.get("interfaces") {
        attach.interfaces = interfaces(findings, entry);
    }
    if let Some(mode) = table.get("mode").and_then(|entry| entry.keyword(findings)) {
        attach.mode = mode;
    }
    if let Some(on_exit) = table.get("on_exit").and_then(|entry| entry.keyword(findings)) {
        attach.on_exit = on_exit;
    }
    if let Some(allowed) = table.get("allow_missing").and_then(|entry| entry.boolean(findings)) {
        attach.allow_missing = allowed;
    }
    attach
}

pub(super) fn source(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> SourceGrouping {
    let default = SourceGrouping::default();
    let Some(table) = root.section(findings, "source", &table::SOURCE) else { return default };
    let mut length = |key, min, max, default| {
        table.get(key).and_then(|entry| entry.bounded(findings, min, max)).unwrap_or(default)
    };
    SourceGrouping {
        ipv4_prefix: length("ipv4_prefix", 8, 32, default.ipv4_prefix),
        ipv6_prefix: length("ipv6_prefix", 32, 128, default.ipv6_prefix),
    }
}

/// Automatic blocks, and where their number of connections stands.
pub(super) fn autoblock(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> (Autoblock, Option<Span>) {
    let default = Autoblock::default();
    let Some(table) = root.section(findings, "autoblock", &table::AUTOBLOCK) else { return (default, None) };
    let enabled = table.get("enabled").and_then(|entry| entry.boolean(findings));
    let mut threshold = |key| {
        let entry: Option<Entry<'_, '_>> = table.get(key);
        entry.and_then(|entry| entry.bounded(findings, 1, u32::MAX.into()))
    };
    let connections = threshold("connections");
    let refused_per_minute = threshold("refused_per_minute").unwrap_or(default.refused_per_minute);
    let limited_per_minute = threshold("limited_per_minute").unwrap_or(default.limited_per_minute);
    let place = table.get("connections").map(|entry| entry.value.span());
    let mut time = |key, default| {
        table.get(key).and_then(|entry: Entry<'_, '_>| duration(findings, entry)).unwrap_or(default)
    };
    let first = time("duration", default.duration);
    let forget_after = time("forget_after", default.forget_after);
    // Whoever asks for a longer first block than the default maximum means the first block.
    let max_duration = time("max_duration", default.max_duration.max(first));
    if let Some(entry) = table.get("max_duration")
        && max_duration < first
    {
        let fault = Fault::new(format!(
            "{} is shorter than the first block, duration = \"{}\"",
            units::duration(max_duration),
            units::duration(first)
        ));
        entry.complain(findings, fault.help("raise max_duration or lower duration"));
    }
    let never = table.get("never").map(|entry| entry.prefixes(findings)).unwrap_or_default();
    let autoblock = Autoblock {
        enabled: enabled.unwrap_or(default.enabled),
        connections,
        refused_per_minute,
        limited_per_minute,
        duration: first,
        max_duration,
        forget_after,
        scope: table.get("scope").and_then(|entry| entry.keyword(findings)).unwrap_or(default.scope),
        kill: table.get("kill").and_then(|entry| entry.boolean(findings)).unwrap_or(default.kill),
        never: never
            .into_iter()
            .map(|net| Prefix { line: findings.line(&net.span()), net: net.into_inner() })
            .collect(),
    };
    (autoblock, place)
}

/// Each source is a few time series, and the sources change.
const MOST_SOURCES: u64 = 100;

pub(super) fn metrics(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> Metrics {
    let default = Metrics::default();
    let Some(table) = root.section(findings, "metrics", &table::METRICS) else { return default };
    let listen = table.get("listen").and_then(|entry| {
        let text = entry.string(findings, "an address and a port such as \"127.0.0.1:9455\"")?;
        findings.keep(&entry.value.span(), parse_listen(text))
    });
    let top_sources = table.get("top_sources").and_then(|entry| entry.bounded(findings, 0, MOST_SOURCES));
    Metrics {
        listen: listen.unwrap_or(default.listen),
        top_sources: top_sources.unwrap_or(default.top_sources),
    }
}

pub(super) fn log(findings: &mut Findings<'_>, root: &Table<'_, '_>) -> Log {
    let default = Log::default();
    let Some(table) = root.section(findings, "log", &table::LOG) else { return default };
    Log {
        level: table.get("level").and_then(|entry| entry.keyword(findings)).unwrap_or(default.level),
        format: table.get("format").and_then(|entry| entry.keyword(findings)).unwrap_or(default.format),
    }
}

/// Where to listen for metrics.
pub(in crate::config) fn parse_listen(text: &str) -> Result<SocketAddr, Fault> {
    let help = "write an IP address and a port, such as \"127.0.0.1:9455\" or \"[::1]:9455\"";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(Fault::about(format!("{text:?}"), "port 0 is no port").help(help))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(Fault::about(format!("{text:?}"), "not an address to listen on").help(help)),
    }
}

/// The name of an interface, or a pattern.
pub(in crate::config) fn parse_interface(text: &str) -> Result<String, Fault> {
    /// What fits into the kernel's IFNAMSIZ.
    const MAX: usize = 15;
    let fault = |message: String| {
        let help = format!(
            "name an interface (`ip link` lists them), a pattern such as \"eth*\", or \"{DEFAULT_ROUTE}\""
        );
        Fault::about(format!("{text:?}"), message).help(help)
    };
    let is_pattern = text.contains(['*', '?', '[']);
    match text {
        "" => Err(fault("the name of an interface cannot be empty".into())),
        "." | ".." => Err(fault("no interface can have this name".into())),
        _ if text.contains(|part: char| {
            part == '/' || part == ':' || part.is_whitespace() || part.is_control()
        }) =>
        {
            Err(fault("no interface can have this name".into()))
        }
        _ if is_pattern => match glob::Pattern::new(text) {
            Ok(_) => Ok(text.into()),
            Err(error) => Err(fault(format!("not a pattern: {}", error.msg))),
        },
        _ if text.len() > MAX => Err(fault(format!(
            "the name of an interface has at most {MAX} bytes; this one has {}",
            text.len()
        ))),
        _ => Ok(text.into()),
    }
}

fn interfaces(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Vec<String> {
    let array = entry.array(findings, "an array of names such as [\"eth0\"]");
    if entry.is_empty_array() {
        let fault = Fault::new("without an interface nothing is guarded");
        entry.complain(
            findings,
            fault.help(format!("write [\"{DEFAULT_ROUTE}\"] or the names of the interfaces")),
        );
    }
    entry.each(array, |entry| {
        let text = entry.string(findings, "the name of an interface")?;
        findings.keep(&entry.value.span(), parse_interface(text))
    })
}

fn duration(findings: &mut Findings<'_>, entry: Entry<'_, '_>) -> Option<std::time::Duration> {
    let text = entry.string(findings, "a duration such as \"10m\"")?;
    findings.keep(&entry.value.span(), units::parse_duration(text))
}
