//! The policy: from a file or flags, as they are written, to a [`Policy`] that guard can enforce.
//!
//! ```text
//! text ──> read ──> written ──> check ──> Policy ──> plan (the entries of the tables)
//!            └────────┴───────────┴──> findings ──> Diagnostic, Report
//! ```
//!
//! All errors are found in one run, each with its place in the file and what to do about it.
//! `docs/policy.md` explains the file to its authors.

mod check;
mod diagnostic;
mod findings;
mod flags;
mod interface;
mod json;
mod keyword;
mod origin;
mod policy;
mod prefix;
mod read;
mod render;
#[cfg(test)]
mod tests;
mod units;
mod written;

pub use diagnostic::{Diagnostic, Report, Severity};
pub use flags::{Flags, apply_flags, from_flags};
pub use interface::refuse_interface;
pub use keyword::{AttachMode, BlockScope, LogFormat, LogLevel, OnExit, Protocol, ServiceMode};
pub use origin::{Origin, Source};
pub use policy::{
    Attach, Autoblock, Capacity, DEFAULT_ROUTE, Limits, Log, Metrics, Policy, Prefix, Rate, Service,
    SourceGrouping, SourceLimits,
};

use findings::Findings;

use crate::local_ports::LocalPorts;

/// A network in CIDR form, or an address, which is a network of its own; as in a policy file.
///
/// # Errors
/// With what is wrong and what may have been meant.
pub fn parse_prefix(text: &str) -> Result<ipnet::IpNet, String> {
    prefix::parse(text).map_err(|fault| fault.to_string())
}

/// A policy without errors, and what is doubtful about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub policy: Policy,
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a policy, for whatever host. `file` is the name that messages show.
///
/// # Errors
/// With all that is wrong.
pub fn parse(text: &str, file: &str) -> Result<Checked, Report> {
    parse_on(&LocalPorts::default(), text, file)
}

/// As [`parse`], for a host whose kernel opens connections from these ports.
///
/// # Errors
/// With all that is wrong.
pub fn parse_on(local: &LocalPorts, text: &str, file: &str) -> Result<Checked, Report> {
    let mut findings = Findings::new(findings::Source::file(file, text));
    let written = read::read(&mut findings, text);
    if let Some(written) = &written {
        check::check(&mut findings, written, local);
    }
    let policy = written.map(|written| written.into_policy(&findings)).unwrap_or_default();
    Ok(Checked { policy, warnings: findings.finish()? })
}
