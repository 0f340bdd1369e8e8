//! Which port a client asked for, where the host translates addresses: of connections whose destination it rewrites, conntrack
//! knows the first packet as the client sent it, and the answer as the server sends it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::NlaBuffer;
use nix::sys::socket::SockProtocol;

use super::Ports;
use super::netlink::{Channel, add_attribute, attributes, unreadable};

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET (linux/netfilter/nfnetlink{,_conntrack}.h).
const GET: u16 = 1 << 8 | 1;
/// AF_UNSPEC, NFNETLINK_V0, no resource: an `nfgenmsg` that asks for both families.
const EVERY_FAMILY: [u8; 4] = [0; 4];
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_STATUS_MASK.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const STATUS_MASK: u16 = 26;
/// CTA_TUPLE_IP and, in it, CTA_IP_{V4,V6}_{SRC,DST}.
const ADDRESSES: u16 = 1;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
/// CTA_TUPLE_PROTO and, in it, CTA_PROTO_{NUM,SRC_PORT,DST_PORT}.
const PROTOCOL: u16 = 2;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const IPPROTO_TCP: u8 = 6;
/// IPS_DST_NAT (linux/netfilter/nf_conntrack_common.h).
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// There wherever conntrack is. To ask conntrack itself would load it where it is not.
const LOADED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Who asked, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) client: SocketAddr,
    pub(super) asked: SocketAddr,
}

/// The two ends of a connection as the server's socket has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// The connections whose destination is translated.
#[derive(Debug, Default)]
pub(super) struct Translations {
    origins: HashMap<Ends, Origin>,
    /// What clients have asked for, and what they have reached.
    ways: BTreeSet<(SocketAddr, SocketAddr)>,
}

/// The conntrack of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Conntrack(Option<Channel>);

impl Conntrack {
    /// A kernel without netfilter translates nothing.
    pub(super) fn open() -> Self {
        Self(Channel::open(SockProtocol::NetlinkNetFilter).ok())
    }

    /// To netfilter, if the kernel has it.
    pub(super) const fn channel(&mut self) -> Option<&mut Channel> {
        self.0.as_mut()
    }

    /// What is translated now; nothing where nothing can be.
    pub(super) fn translations(&mut self) -> io::Result<Translations> {
        let mut translations = Translations::default();
        let Some(channel) = &mut self.0 else { return Ok(translations) };
        if !fs::exists(LOADED).unwrap_or(false) {
            return Ok(translations);
        }
        // Kernels that do not know the mask send everything.
        let mut body = EVERY_FAMILY.to_vec();
        for attribute in [STATUS, STATUS_MASK] {
            add_attribute(&mut body, attribute, &DESTINATION_TRANSLATED.to_be_bytes())?;
        }
        let listed = channel.dump(GET, &body, |entry| {
            if let Some((ends, client, asked)) = read(entry)? {
                translations.origins.insert(ends, Origin { client, asked });
                translations.ways.insert((asked, ends.local));
            }
            Ok(())
        });
        match listed {
            // Conntrack without its netlink interface.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                Ok(Translations::default())
            }
            listed => listed.map(|()| translations),
        }
    }
}

impl Translations {
    pub(super) fn origin(&self, ends: Ends) -> Option<Origin> {
        self.origins.get(&ends).copied()
    }

    /// The ports of the sockets that those who asked for one of `ports` have reached.
    pub(super) fn local_ports(&self, ports: &Ports) -> impl Iterator<Item = u16> {
        let asked = self.origins.iter().filter(|(_, origin)| ports.include(origin.asked));
        asked.map(|(ends, _)| ends.local.port())
    }

    /// What clients have asked for, and what they have reached.
    pub(super) const fn ways(&self) -> &BTreeSet<(SocketAddr, SocketAddr)> {
        &self.ways
    }
}

/// Nothing is translated without it.
pub(super) fn is_loaded() -> bool {
    fs::exists(LOADED).unwrap_or(true)
}

#[cfg(test)]
impl Translations {
    pub(super) fn of_ways(ways: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> Self {
        Self { origins: HashMap::new(), ways: ways.into_iter().collect() }
    }
}

#[cfg(test)]
impl FromIterator<(Ends, Origin)> for Translations {
    fn from_iter<I: IntoIterator<Item = (Ends, Origin)>>(entries: I) -> Self {
        Self { origins: entries.into_iter().collect(), ways: BTreeSet::new() }
    }
}

/// One entry, if it is of TCP and its destination is translated: the ends, the client, and what it has asked for.
fn read(entry: &[u8]) -> io::Result<Option<(Ends, SocketAddr, SocketAddr)>> {
    let (mut original, mut reply, mut status) = (None, None, 0);
    for attribute in attributes(entry.get(EVERY_FAMILY.len()..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            ORIGINAL => original = tuple(attribute.value())?,
            REPLY => reply = tuple(attribute.value())?,
            STATUS => status = u32::from_be_bytes(bytes(&attribute)?),
            _ => {}
        }
    }
    if status & DESTINATION_TRANSLATED == 0 {
        return Ok(None);
    }
    let (Some((client, asked)), Some((local, peer))) = (original, reply) else { return Ok(None) };
    Ok(Some((Ends { peer, local }, client, asked)))
}

/// Source and destination of one direction; none of another protocol than TCP.
fn tuple(value: &[u8]) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [0; 2], 0);
    for part in attributes(value) {
        let part = part?;
        let kind = part.kind();
        for field in attributes(part.value()) {
            let field = field?;
            let [source, destination] = &mut addresses;
            match (kind, field.kind()) {
                (ADDRESSES, V4_SOURCE) => *source = Some(IpAddr::from(bytes::<4>(&field)?)),
                (ADDRESSES, V4_DESTINATION) => *destination = Some(IpAddr::from(bytes::<4>(&field)?)),
                (ADDRESSES, V6_SOURCE) => *source = Some(IpAddr::from(bytes::<16>(&field)?)),
                (ADDRESSES, V6_DESTINATION) => *destination = Some(IpAddr::from(bytes::<16>(&field)?)),
                (PROTOCOL, NUMBER) => [protocol] = bytes(&field)?,
                (PROTOCOL, SOURCE_PORT) => ports[0] = u16::from_be_bytes(bytes(&field)?),
                (PROTOCOL, DESTINATION_PORT) => ports[1] = u16::from_be_bytes(bytes(&field)?),
                _ => {}
            }
        }
    }
    let [Some(source), Some(destination)] = addresses else { return Ok(None) };
    let ends = (SocketAddr::new(source, ports[0]), SocketAddr::new(destination, ports[1]));
    Ok((protocol == IPPROTO_TCP).then_some(ends))
}

fn bytes<const N: usize>(attribute: &NlaBuffer<&[u8]>) -> io::Result<[u8; N]> {
    let value = attribute.value();
    value
        .first_chunk()
        .copied()
        .ok_or_else(|| unreadable(format!("{N} bytes expected, {} found", value.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut attribute = Vec::new();
        add_attribute(&mut attribute, kind, value).unwrap();
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        attribute
    }

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | 1 << 15, &parts.concat())
    }

    fn tuple(kind: u16, protocol: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let address = |v4, v6, address: SocketAddr| match address.ip() {
            IpAddr::V4(address) => attribute(v4, &address.octets()),
            IpAddr::V6(address) => attribute(v6, &address.octets()),
        };
        let addresses = nested(
            ADDRESSES,
            &[address(V4_SOURCE, V6_SOURCE, source), address(V4_DESTINATION, V6_DESTINATION, destination)],
        );
        let ports = nested(
            PROTOCOL,
            &[
                attribute(NUMBER, &[protocol]),
                attribute(SOURCE_PORT, &source.port().to_be_bytes()),
                attribute(DESTINATION_PORT, &destination.port().to_be_bytes()),
            ],
        );
        nested(kind, &[addresses, ports])
    }

    fn entry(protocol: u8, status: u32, [client, asked, local, peer]: [&str; 4]) -> Vec<u8> {
        let [client, asked, local, peer] = [client, asked, local, peer].map(|text| text.parse().unwrap());
        let mut entry = vec![2, 0, 0, 0];
        entry.extend(tuple(ORIGINAL, protocol, client, asked));
        entry.extend(tuple(REPLY, protocol, local, peer));
        entry.extend(attribute(STATUS, &status.to_be_bytes()));
        entry
    }

    const CONTAINER: [&str; 4] = ["10.0.0.9:4000", "10.0.0.1:8000", "172.17.0.2:9000", "10.0.0.9:4000"];

    #[test]
    fn the_way_back_leads_to_what_was_asked() {
        let masked = ["10.0.0.9:4000", "10.0.0.1:8000", "172.17.0.2:9000", "172.17.0.1:61000"];
        let six = ["[fd00::9]:4000", "[fd00::1]:8000", "[fd17::2]:9000", "[fd00::9]:4000"];
        for ends in [CONTAINER, masked, six] {
            let found = read(&entry(IPPROTO_TCP, 0x1ae, ends)).unwrap().unwrap();
            let [client, asked, local, peer] = ends.map(|text| text.parse().unwrap());
            assert_eq!(found, (Ends { peer, local }, client, asked));
        }
    }

    #[test]
    fn other_protocols_and_untranslated_connections_are_left_out() {
        assert_eq!(read(&entry(17, 0x1ae, CONTAINER)).unwrap(), None);
        assert_eq!(read(&entry(IPPROTO_TCP, 0x18e, CONTAINER)).unwrap(), None);
        assert_eq!(read(&[]).unwrap(), None);
    }

    #[test]
    fn cut_entries_are_errors_or_none() {
        let entry = entry(IPPROTO_TCP, 0x1ae, CONTAINER);
        for length in 0..entry.len() {
            assert!(!matches!(read(&entry[..length]), Ok(Some(_))), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_entry_makes_it_panic(entry in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&entry);
        }
    }
}
