//! A container behind a host, as Docker and podman publish one: a bridge, and destination NAT of a port.

use std::fs;

use anyhow::{Context, Result};

use super::namespace::Namespace;
use super::{Host, feed};

/// The container's address; the bridge has the first one of the network.
pub const CONTAINER: &str = "10.88.0.2";
const BRIDGE: &str = "10.88.0.1/24";

impl Host {
    /// Puts a container behind this host, whose `port` it publishes as `published`.
    ///
    /// # Errors
    /// Without root or nftables.
    pub fn publish(&self, published: u16, port: u16) -> Result<Self> {
        let namespace = Namespace::new("container")?;
        self.ip("link add docker0 type bridge")?;
        self.ip(&format!("address add {BRIDGE} dev docker0"))?;
        self.ip("link set docker0 up")?;
        self.ip(&format!("link add veth0 type veth peer name eth0 netns {}", namespace.name()))?;
        self.ip("link set veth0 master docker0 up")?;
        namespace.ip("link set lo up")?;
        namespace.ip(&format!("address add {CONTAINER}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        namespace.ip("route add default via 10.88.0.1")?;
        self.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")
        })?;
        self.nft(&format!(
            "table ip nat {{\n chain prerouting {{\n  type nat hook prerouting priority dstnat;\n  tcp dport {published} dnat to {CONTAINER}:{port}\n }}\n \
             chain postrouting {{\n  type nat hook postrouting priority srcnat;\n  ip saddr 10.88.0.0/24 oifname eth0 masquerade\n }}\n}}\n"
        ))?;
        Ok(Self::new(namespace, 0))
    }

    /// Gives rules to nftables.
    ///
    /// # Errors
    /// When it refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        feed(self.command("nft").args(["-f", "-"]), rules)
    }
}
