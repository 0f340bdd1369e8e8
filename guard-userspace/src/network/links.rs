//! The interfaces of this network namespace, over netlink. /sys may show those of another namespace.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp};

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
    /// The device below: of a VLAN, its carrier.
    pub lower: Option<u32>,
    /// The kernel's number of the XDP program that is on it.
    pub xdp_program: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("the interfaces of this host cannot be listed: {0}")]
pub struct LinkError(#[from] io::Error);

/// All interfaces.
///
/// # Errors
/// When the kernel does not say.
pub fn links() -> Result<Vec<Link>, LinkError> {
    let socket = RouteSocket::open()?;
    socket.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let mut links = Vec::new();
    loop {
        for answer in socket.answers()? {
            match answer {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    links.push(Link::of(link))
                }
                NetlinkPayload::Done(_) => return Ok(links),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::InnerMessage(_) | NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
            }
        }
    }
}

/// One interface, if it is there.
///
/// # Errors
/// When the kernel does not say.
pub fn link(index: u32) -> Result<Option<Link>, LinkError> {
    Ok(links()?.into_iter().find(|link| link.index == index))
}

impl Link {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more attributes than matter here")]
    fn of(message: LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(controller) => link.controller = Some(controller),
                LinkAttribute::Link(lower) => link.lower = Some(lower),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind).or(link.kind),
                LinkAttribute::Xdp(facts) => link.xdp_program = facts.into_iter().find_map(program),
                _ => {}
            }
        }
        link
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
        assert!(loopback.mtu >= 1500);
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
}
