//! Test networks: hosts in network namespaces, joined by a switch.
//!
//! ```text
//!   server          client         stranger        …
//!   eth0            eth0           eth0               each in a namespace of its own
//!     │               │              │
//!   ──┴───────────────┴──────────────┴──              a bridge, in another namespace
//! ```

mod container;
mod host;
mod namespace;
mod process;

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

pub use container::CONTAINER;
pub use host::{Host, mac_of};
pub use process::{Running, feed};

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
        switch.enter(leave_frames_alone)?;
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
        let host = Host::new(namespace, number);
        self.carry_tags(&host, Tags::InFrames)?;
        Ok(host)
    }

    /// Says how tags get to a host; at first they are in the frames.
    ///
    /// # Errors
    /// When the host is on another network.
    pub fn carry_tags(&self, host: &Host, tags: Tags) -> Result<()> {
        let offload = match tags {
            Tags::InFrames => "off",
            Tags::BesideFrames => "on",
        };
        let port = port_name(host.number());
        let features = ["-K", &port, "tx-vlan-offload", offload, "tx-vlan-stag-hw-insert", offload];
        self.switch.run("ethtool", &features)
    }
}

/// How a VLAN tag gets from the switch to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// In the frame.
    InFrames,
    /// Beside it, as from a card that takes the outer tag off: no program sees it.
    BesideFrames,
}

/// The switch's end of the wire to a host.
fn port_name(number: u8) -> String {
    format!("port{number}")
}

/// Where the kernel has netfilter for bridges, it drops IP packets with bad headers before any host sees them.
fn leave_frames_alone() -> Result<()> {
    for table in ["arptables", "iptables", "ip6tables"] {
        match fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{table}"), "0") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("cannot keep netfilter off the switch");
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
