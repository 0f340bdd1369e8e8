//! A host of a test network.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Running;
use super::namespace::Namespace;

/// A namespace with one interface, `eth0`.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    number: u8,
}

/// The hardware address of the host with this number.
pub const fn mac_of(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

impl Host {
    pub(super) const fn new(namespace: Namespace, number: u8) -> Self {
        Self { namespace, number }
    }

    pub(super) const fn number(&self) -> u8 {
        self.number
    }

    pub const fn mac(&self) -> [u8; 6] {
        mac_of(self.number)
    }

    /// A command on this host.
    pub fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// Runs a command to its end and returns what it wrote to stdout and stderr, and whether it succeeded.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.command(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {program}"))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Starts a command that ends with the returned handle.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<Running> {
        Running::start(command)
    }

    /// `ip` on this host.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.namespace.ip(arguments)
    }

    /// Lays a wire to another host: `interface` is this end of it, `other_interface` the other.
    ///
    /// # Errors
    /// When there are such interfaces.
    pub fn wire(&self, interface: &str, other: &Self, other_interface: &str) -> Result<()> {
        let other = other.namespace.name();
        self.ip(&format!("link add {interface} type veth peer name {other_interface} netns {other}"))
    }

    /// Runs `work` on a thread that is on this host: sockets that it opens are this host's, wherever they are used later.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and those of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace.enter(work)
    }
}
