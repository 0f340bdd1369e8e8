//! A policy from the command line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::findings::{Fault, Findings, Source, Span};
use super::keyword::{Protocol, ServiceMode};
use super::policy::{DEFAULT_ROUTE, Policy};
use super::written::{Written, WrittenService};
use super::{Checked, Report, check, prefix, read, units};
use crate::local_ports::LocalPorts;

/// Name of the service that flags describe.
const SERVICE: &str = "default";

/// The flags of `guard run` that say what to guard, as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    pub interfaces: Vec<String>,
    pub ports: Vec<String>,
    pub allow: Vec<String>,
    pub monitor: bool,
    pub allow_missing: bool,
    pub metrics: Option<String>,
}

/// A policy from flags alone: one TCP service, without limits.
///
/// # Errors
/// With everything that is wrong; each message begins with the flag.
pub fn from_flags(local: &LocalPorts, flags: &Flags) -> Result<Checked, Report> {
    let line = CommandLine::new(flags);
    let mut findings = Findings::new(Source::Flags { line: &line.text });
    let mut rest = Policy::default();
    if flags.interfaces.is_empty() {
        let fault = Fault::new(format!(
            "without --interface, guard guards the interfaces of the {} only",
            DEFAULT_ROUTE.replace('-', " ")
        ));
        findings.warn(&NOWHERE, fault.help("name each with --interface if this host has others"));
    } else {
        rest.attach.interfaces = line.interfaces(&mut findings);
    }
    rest.attach.allow_missing = flags.allow_missing;
    if let Some(listen) = line.listen(&mut findings) {
        rest.metrics.listen = listen;
    }
    let written = Written {
        services: line.service(&mut findings, flags.monitor).into_iter().collect(),
        limits: Vec::new(),
        trusted: Vec::new(),
        autoblock_connections: None,
        rest,
    };
    check::check(&mut findings, &written, local);
    let policy = written.into_policy(&findings);
    Ok(Checked { policy, warnings: findings.finish()? })
}

/// A policy of a file under flags, which win: `--interface` and `--metrics` replace what the file says, `--port`
/// with `--allow` replace its services by one, `--monitor` sets all services to monitor, `--allow-missing` sets `allow_missing`.
///
/// # Errors
/// With everything that is wrong; each message begins with the flag.
pub fn apply_flags(local: &LocalPorts, file: Checked, flags: &Flags) -> Result<Checked, Report> {
    let line = CommandLine::new(flags);
    let mut findings = Findings::new(Source::Flags { line: &line.text });
    let Checked { mut policy, mut warnings } = file;
    if !flags.interfaces.is_empty() {
        policy.attach.interfaces = line.interfaces(&mut findings);
    }
    policy.attach.allow_missing |= flags.allow_missing;
    if let Some(listen) = line.listen(&mut findings) {
        policy.metrics.listen = listen;
    }
    if !flags.ports.is_empty() || !flags.allow.is_empty() {
        let services = line.service(&mut findings, flags.monitor).into_iter().collect();
        let written = Written {
            services,
            limits: Vec::new(),
            trusted: Vec::new(),
            autoblock_connections: None,
            rest: Policy::default(),
        };
        check::check(&mut findings, &written, local);
        policy.services = written.into_policy(&findings).services;
    }
    if flags.monitor {
        for service in &mut policy.services {
            service.mode = ServiceMode::Monitor;
        }
    }
    warnings.extend(findings.finish()?);
    Ok(Checked { policy, warnings })
}

const NOWHERE: Span = 0..0;

/// The flags written out, so that each value has a place.
struct CommandLine {
    text: String,
    interfaces: Vec<Spanned<String>>,
    ports: Vec<Spanned<String>>,
    allow: Vec<Spanned<String>>,
    metrics: Option<Spanned<String>>,
}

impl CommandLine {
    fn new(flags: &Flags) -> Self {
        let mut text = String::new();
        let mut add = |flag: &str, value: &String| {
            text.push(' ');
            let start = text.len();
            // Escaped, as the value goes into messages.
            text.push_str(&format!("{flag} {}", value.escape_debug()));
            Spanned::new(start..text.len(), value.clone())
        };
        let mut all = |flag, values: &[String]| values.iter().map(|value| add(flag, value)).collect();
        let interfaces = all("--interface", &flags.interfaces);
        let ports = all("--port", &flags.ports);
        let allow = all("--allow", &flags.allow);
        let metrics = flags.metrics.as_ref().map(|value| add("--metrics", value));
        Self { text, interfaces, ports, allow, metrics }
    }

    fn interfaces(&self, findings: &mut Findings<'_>) -> Vec<String> {
        let parse =
            |name: &Spanned<String>| findings.keep(&name.span(), read::parse_interface(name.get_ref()));
        self.interfaces.iter().filter_map(parse).collect()
    }

    fn listen(&self, findings: &mut Findings<'_>) -> Option<SocketAddr> {
        let listen = self.metrics.as_ref()?;
        findings.keep(&listen.span(), read::parse_listen(listen.get_ref()))
    }

    fn service(&self, findings: &mut Findings<'_>, monitor: bool) -> Option<WrittenService> {
        if self.ports.is_empty() {
            let fault = Fault::new("--port is missing: nothing would be guarded");
            findings.error(&NOWHERE, fault.help("add --port 8000"));
        }
        if self.allow.is_empty() {
            let fault = Fault::new("--allow is missing: nobody could reach the port");
            findings.error(
                &NOWHERE,
                fault.help("add --allow 10.0.0.0/8; everyone is --allow 0.0.0.0/0 --allow ::/0"),
            );
        }
        let mut parsed = |text: &Spanned<String>| {
            let span = text.span();
            findings.keep(&span, units::parse_ports(text.get_ref())).map(|ports| Spanned::new(span, ports))
        };
        let ports = self.ports.iter().filter_map(&mut parsed).collect();
        let mut parsed = |text: &Spanned<String>| {
            let span = text.span();
            findings.keep(&span, prefix::parse(text.get_ref())).map(|net| Spanned::new(span, net))
        };
        let allow = self.allow.iter().filter_map(&mut parsed).collect();
        Some(WrittenService {
            span: NOWHERE,
            name: Some(Spanned::new(NOWHERE, SERVICE.into())),
            ports,
            protocols: vec![Protocol::Tcp],
            mode: if monitor { ServiceMode::Monitor } else { ServiceMode::Enforce },
            allow,
            deny: Vec::new(),
            destinations: Vec::new(),
            limits: None,
            sources: Vec::new(),
        })
    }
}
