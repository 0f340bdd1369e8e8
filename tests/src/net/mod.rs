//! Test networks: hosts in network namespaces, joined by a switch.
//!
//! ```text
//!   server          client         stranger        …
//!   eth0            eth0           eth0               each in a namespace of its own
//!     │               │              │
//!   ──┴───────────────┴──────────────┴──              a bridge, in another namespace
//! ```

mod host;
mod namespace;
mod process;

use anyhow::{Context, Result};

pub use host::{Host, mac_of};
pub use process::Running;

use crate::stale;
use namespace::Namespace;

/// A switch that hosts are plugged into. Everything ends with it.
pub struct Network {
    switch: Namespace,
}

const BRIDGE: &str = "bridge0";

impl Network {
    /// Makes a switch; what tests that died have left is removed first.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        stale::remove();
        let switch = Namespace::new("switch").context("test networks need root and iproute2")?;
        switch.ip("link add bridge0 type bridge mcast_snooping 0")?;
        switch.ip("link set bridge0 up")?;
        Ok(Self { switch })
    }

    /// Lets frames of this size pass between the hosts that are plugged in.
    ///
    /// # Errors
    /// When an interface does not take it.
    pub fn set_mtu(&self, hosts: &[&Host], mtu: u32) -> Result<()> {
        for host in hosts {
            self.switch.ip(&format!("link set {} mtu {mtu}", port_name(host.number())))?;
            host.ip(&format!("link set eth0 mtu {mtu}"))?;
        }
        Ok(())
    }

    /// Plugs a host in. Its interface is `eth0`; offloads are off, so that a packet is a packet.
    ///
    /// # Errors
    /// When the interfaces cannot be made.
    pub fn host(&self, name: &str, number: u8, addresses: &[&str]) -> Result<Host> {
        let namespace = Namespace::new(name)?;
        let port = port_name(number);
        // Two queues, so that both CPUs receive.
        let pair = format!(
            "link add eth0 netns {} numrxqueues 2 numtxqueues 2 type veth peer name {port} numrxqueues 2 numtxqueues 2",
            namespace.name()
        );
        self.switch.ip(&pair)?;
        self.switch.ip(&format!("link set {port} master {BRIDGE} up"))?;
        let [a, b, c, d, e, f] = mac_of(number);
        namespace.ip(&format!("link set eth0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} up"))?;
        namespace.ip("link set lo up")?;
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            namespace.ip(&format!("address add {address} dev eth0 {nodad}"))?;
        }
        for (namespace, interface) in [(&namespace, "eth0"), (&self.switch, port.as_str())] {
            namespace.run("ethtool", &["-K", interface, "tso", "off", "gso", "off", "tx", "off"])?;
        }
        // With GRO on the driver polls, and frames reach the switch whether or not a program is attached.
        namespace.run("ethtool", &["-K", "eth0", "gro", "on"])?;
        Ok(Host::new(namespace, number))
    }
}

/// The switch's end of the wire to a host.
fn port_name(number: u8) -> String {
    format!("port{number}")
}
