//! A host with a filter and servers, and the world that it hears.

use std::path::Path;

use anyhow::Result;

use super::super::Cpus;
use super::super::cost::Size;
use super::super::filters::{Filter, Kind};
use super::super::strangers::{ADDRESS, MAC, text, wire};
use super::interrupts;
use super::servers::Servers;
use crate::large;
use crate::net::{Host, Network, feed};

/// Both ends of a wire.
pub(super) struct Ends {
    /// Clients and strangers.
    pub(super) world: Host,
    pub(super) host: Host,
}

/// The world's end of the wire.
pub(super) const WIRE: &str = "wire0";
const WORLD_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];

impl Ends {
    pub(super) fn new(network: &Network, number: u8, cpus: Cpus) -> Result<Self> {
        let world = network.host("world", 100 + 2 * number, &[])?;
        let host = network.host("filter", 101 + 2 * number, &[])?;
        wire(&world, WIRE, &host)?;
        let client = large::allowed(0);
        for command in [
            &format!("link set {WIRE} address {} addrgenmode none", text(WORLD_MAC)) as &str,
            &format!("address add {client}/32 dev {WIRE}"),
            &format!("route add {ADDRESS} dev {WIRE} src {client}"),
            // Some filters drop ARP, and under a flood it is lost.
            &format!("neigh replace {ADDRESS} lladdr {} dev {WIRE} nud permanent", text(MAC)),
        ] {
            world.ip(command)?;
        }
        // Strangers can be answered, as in the world. The answers are lost there.
        for command in [
            &format!("route add default via {client} dev up0 onlink") as &str,
            &format!("neigh replace {client} lladdr {} dev up0 nud permanent", text(WORLD_MAC)),
        ] {
            host.ip(command)?;
        }
        // Otherwise packets of sockets would go past the ring of the interface, which is polled.
        feed(world.command("ethtool").args(["-K", WIRE, "tso", "off"]), "")?;
        interrupts::steer(&world, WIRE, cpus.world)?;
        Ok(Self { world, host })
    }
}

pub(super) struct Site<'a> {
    pub(super) ends: &'a Ends,
    filter: Filter<'a>,
    _servers: Servers<'a>,
}

impl<'a> Site<'a> {
    pub(super) fn new(kind: Kind, ends: &'a Ends, size: Size, streaming_server: &Path) -> Result<Self> {
        let servers = Servers::start(&ends.host, streaming_server)?;
        Ok(Self { ends, filter: kind.install(&ends.host, size)?, _servers: servers })
    }

    pub(super) const fn kind(&self) -> Kind {
        self.filter.kind
    }
}
