//! The interfaces of this network namespace, over netlink. /sys may show those of another namespace.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};

use super::route_socket::RouteSocket;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bond`, `bridge`, `vlan`, …; none for a piece of hardware.
    pub kind: Option<String>,
    pub mtu: u32,
    /// The bond or the bridge that it is a part of.
    pub controller: Option<u32>,
    /// The device below: of a VLAN, its carrier. None where it is in another namespace, and numbered there.
    pub lower: Option<u32>,
    pub is_up: bool,
    pub is_loopback: bool,
    /// ARPHRD_*: what its frames begin with.
    pub layer: LinkLayerType,
    /// Of a tunnel, where its packets come from; of Ethernet, the address for all.
    pub broadcast: Vec<u8>,
    /// The kernel's number of the XDP program that is on it.
    pub xdp_program: Option<u32>,
}

/// What the frames of a device begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    Ethernet,
    /// An IP header: nothing else goes over such a device.
    Ip,
    /// The kernel's name for a link type that guard cannot read.
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
#[error("the interfaces of this host cannot be listed: {0}")]
pub struct LinkError(#[from] io::Error);

/// All interfaces.
///
/// # Errors
/// When the kernel does not say.
pub fn links() -> Result<Vec<Link>, LinkError> {
    list(&RouteSocket::open()?)
}

pub(super) fn list(socket: &RouteSocket) -> Result<Vec<Link>, LinkError> {
    let answers = socket.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers.into_iter().filter_map(of_answer).collect())
}

/// One interface, if it is there.
///
/// # Errors
/// When the kernel does not say.
pub fn link(index: u32) -> Result<Option<Link>, LinkError> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    Ok(RouteSocket::open()?.get(&RouteNetlinkMessage::GetLink(question))?.and_then(of_answer))
}

fn of_answer(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(link) = answer else { return None };
    Some(Link::of(link))
}

impl Link {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more attributes than matter here")]
    fn of(message: LinkMessage) -> Self {
        let header = message.header;
        let mut link = Self {
            index: header.index,
            is_up: header.flags.contains(LinkFlags::Up),
            is_loopback: header.flags.contains(LinkFlags::Loopback),
            layer: header.link_layer_type,
            ..Self::default()
        };
        let mut is_lower_elsewhere = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(controller) => link.controller = Some(controller),
                LinkAttribute::Link(lower) => link.lower = Some(lower),
                LinkAttribute::LinkNetNsId(_) => is_lower_elsewhere = true,
                LinkAttribute::Broadcast(address) => link.broadcast = address,
                LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind).or(link.kind),
                LinkAttribute::Xdp(facts) => link.xdp_program = facts.into_iter().find_map(program),
                _ => {}
            }
        }
        if is_lower_elsewhere {
            link.lower = None;
        }
        link
    }

    /// Whether its packets come from the device below, and pass the XDP program of that one first. Those of a tunnel come wrapped.
    pub fn is_carried(&self) -> bool {
        matches!(self.kind.as_deref(), Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
    }

    /// What its frames begin with.
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not known to be readable is not")]
    pub fn framing(&self) -> Framing {
        match self.layer {
            LinkLayerType::Ether | LinkLayerType::Loopback => Framing::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Ppp
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Rawip => Framing::Ip,
            // Without a single other end, such a device shows the headers of the tunnel before the packet (`ipgre_header_ops`).
            LinkLayerType::Ipgre if is_unicast(&self.broadcast) => Framing::Ip,
            other => Framing::Unknown(format!("{other:?}")),
        }
    }

    /// What whoever guards this interface should know of it.
    pub fn advice(&self, others: &[Self]) -> Option<String> {
        let name = |index: Option<u32>| {
            others
                .iter()
                .find(|link| Some(link.index) == index)
                .map_or("another device", |link| link.name.as_str())
        };
        let kind = self.kind.as_deref().unwrap_or_default();
        let controller = others.iter().find(|link| Some(link.index) == self.controller);
        match (kind, controller.and_then(|link| link.kind.as_deref())) {
            (_, Some("bond")) => {
                let bond = name(self.controller);
                Some(format!(
                    "{} is a part of {bond}: guard {bond}, which judges the traffic of all its parts",
                    self.name
                ))
            }
            ("vlan", _) => {
                let carrier = name(self.lower);
                Some(format!(
                    "{} is a VLAN of {carrier}: {carrier} can be guarded in the driver, and guard looks through its tags",
                    self.name
                ))
            }
            ("bridge", _) => Some(format!(
                "{} is a bridge: guard sees what its parts receive for this host, not what passes between them; guard the part that leads \
                 outside for all of it",
                self.name
            )),
            _ => None,
        }
    }
}

/// Whether these are the bytes of an IPv4 address of one host.
fn is_unicast(address: &[u8]) -> bool {
    <[u8; 4]>::try_from(address)
        .is_ok_and(|bytes| !Ipv4Addr::from(bytes).is_unspecified() && !Ipv4Addr::from(bytes).is_multicast())
}

fn kind(info: LinkInfo) -> Option<String> {
    let LinkInfo::Kind(kind) = info else { return None };
    Some(InfoKind::to_string(&kind))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more facts than matter here")]
fn program(fact: LinkXdp) -> Option<u32> {
    match fact {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed_with_what_it_is() {
        let links = links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.controller, loopback.xdp_program), (1, None, None));
        assert!(loopback.mtu >= 1500 && loopback.is_loopback);
        assert_eq!(link(1).unwrap().as_ref(), Some(loopback));
        assert_eq!(link(u32::MAX >> 1).unwrap(), None);
    }

    #[test]
    fn advice_names_the_better_interface() {
        let link = |index, name: &str, kind: Option<&str>, controller, lower| Link {
            index,
            name: name.into(),
            kind: kind.map(Into::into),
            controller,
            lower,
            ..Link::default()
        };
        let links = [
            link(2, "eth0", None, Some(3), None),
            link(3, "bond0", Some("bond"), None, None),
            link(4, "bond0.7", Some("vlan"), None, Some(3)),
            link(5, "docker0", Some("bridge"), None, None),
            link(6, "eth1", None, None, None),
        ];
        let says = [Some("guard bond0"), None, Some("VLAN of bond0"), Some("a bridge"), None];
        for (link, says) in links.iter().zip(says) {
            let advice = link.advice(&links);
            assert_eq!(advice.is_some(), says.is_some(), "{}: {advice:?}", link.name);
            assert!(advice.unwrap_or_default().contains(says.unwrap_or_default()), "{}", link.name);
        }
    }

    #[test]
    fn the_link_type_says_what_frames_begin_with() {
        let framing = |layer, broadcast: &[u8]| {
            Link { layer, broadcast: broadcast.into(), ..Link::default() }.framing()
        };
        for layer in [LinkLayerType::Ether, LinkLayerType::Loopback] {
            assert_eq!(framing(layer, &[0xff; 6]), Framing::Ethernet, "{layer:?}");
        }
        for layer in [
            LinkLayerType::None,
            LinkLayerType::Ppp,
            LinkLayerType::Tunnel,
            LinkLayerType::Tunnel6,
            LinkLayerType::Sit,
            LinkLayerType::Rawip,
        ] {
            assert_eq!(framing(layer, &[]), Framing::Ip, "{layer:?}");
        }
        assert_eq!(framing(LinkLayerType::Ipgre, &[192, 0, 2, 1]), Framing::Ip);
        for remote in [&[0, 0, 0, 0][..], &[224, 0, 0, 1], &[]] {
            assert!(matches!(framing(LinkLayerType::Ipgre, remote), Framing::Unknown(_)), "{remote:?}");
        }
        assert_eq!(framing(LinkLayerType::Infiniband, &[]), Framing::Unknown("Infiniband".into()));
    }
}
