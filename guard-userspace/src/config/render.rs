//! A policy in its normal form: every key, with what is in force.

use std::time::Duration;

use super::policy::{Autoblock, Limits, Policy, Prefix, Rate, Service};
use super::units;

/// Arrays that are longer take a line for each element.
const WIDTH: usize = 100;

impl Policy {
    /// The policy as a file: every key with its value, defaults included. Reads back as the same policy.
    pub fn to_toml(&self) -> String {
        let mut out = Writer(String::new());
        out.header("[attach]");
        out.array("interfaces", self.attach.interfaces.iter().map(|name| quoted(name)));
        out.text("mode", self.attach.mode.name());
        out.text("on_exit", self.attach.on_exit.name());
        out.value("allow_missing", self.attach.allow_missing);
        for service in &self.services {
            write_service(&mut out, service);
        }
        for (name, limits) in &self.limits {
            write_limits(&mut out, name, limits);
        }
        out.header("[source]");
        out.value("ipv4_prefix", self.source.ipv4_prefix);
        out.value("ipv6_prefix", self.source.ipv6_prefix);
        out.header("[trusted]");
        out.prefixes("prefixes", &self.trusted);
        write_autoblock(&mut out, &self.autoblock);
        out.header("[capacity]");
        out.value("blocks", self.capacity.blocks);
        out.value("sources", self.capacity.sources);
        out.value("connections", self.capacity.connections);
        out.header("[metrics]");
        out.text("listen", &self.metrics.listen.to_string());
        out.value("top_sources", self.metrics.top_sources);
        out.header("[log]");
        out.text("level", self.log.level.name());
        out.text("format", self.log.format.name());
        out.0
    }
}

fn write_service(out: &mut Writer, service: &Service) {
    out.header("[[service]]");
    out.text("name", &service.name);
    out.array(
        "ports",
        service.ports.iter().map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            _ => quoted(&units::port_range(range)),
        }),
    );
    out.array("protocols", service.protocols.iter().map(|protocol| quoted(protocol.name())));
    out.text("mode", service.mode.name());
    out.prefixes("allow", &service.allow);
    out.prefixes("deny", &service.deny);
    out.prefixes("destinations", &service.destinations);
    if let Some(limits) = &service.limits {
        out.text("limits", limits);
    }
    for source in &service.sources {
        out.header("[[service.sources]]");
        out.text("prefix", &source.prefix.to_string());
        out.text("limits", &source.limits);
    }
}

fn write_limits(out: &mut Writer, name: &str, limits: &Limits) {
    // A dot in a bare key would open a table within.
    let name = if name.contains('.') { quoted(name) } else { name.into() };
    out.header(&format!("[limits.{name}]"));
    let number = |number: u64| number.to_string();
    let bytes = |number: u64| quoted(&units::bytes(number));
    out.rate(limits.packets, ["packets_per_second", "packet_burst"], number);
    out.rate(limits.bytes, ["bytes_per_second", "byte_burst"], bytes);
    out.rate(limits.connections, ["connections_per_second", "connection_burst"], number);
    if let Some(connections) = limits.max_connections {
        out.value("max_connections", connections);
    }
}

fn write_autoblock(out: &mut Writer, autoblock: &Autoblock) {
    out.header("[autoblock]");
    out.value("enabled", autoblock.enabled);
    if let Some(connections) = autoblock.connections {
        out.value("connections", connections);
    }
    out.value("refused_per_minute", autoblock.refused_per_minute);
    out.value("limited_per_minute", autoblock.limited_per_minute);
    out.duration("duration", autoblock.duration);
    out.duration("max_duration", autoblock.max_duration);
    out.duration("forget_after", autoblock.forget_after);
    out.text("scope", autoblock.scope.name());
    out.value("kill", autoblock.kill);
    out.prefixes("never", &autoblock.never);
}

struct Writer(String);

impl Writer {
    fn header(&mut self, header: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.0.push_str(&format!("{gap}{header}\n"));
    }

    fn value(&mut self, key: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, quoted(text));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, &units::duration(duration));
    }

    fn rate(&mut self, rate: Option<Rate>, [per_second, burst]: [&str; 2], amount: impl Fn(u64) -> String) {
        if let Some(rate) = rate {
            self.value(per_second, amount(rate.per_second));
            self.value(burst, amount(rate.burst));
        }
    }

    fn prefixes(&mut self, key: &str, prefixes: &[Prefix]) {
        self.array(key, prefixes.iter().map(|prefix| quoted(&prefix.to_string())));
    }

    fn array(&mut self, key: &str, elements: impl Iterator<Item = String>) {
        let elements: Vec<String> = elements.collect();
        let width: usize = elements.iter().map(|element| element.len() + 2).sum();
        if width <= WIDTH {
            self.value(key, format!("[{}]", elements.join(", ")));
        } else {
            self.value(key, format!("[\n    {},\n]", elements.join(",\n    ")));
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
