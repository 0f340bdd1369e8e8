//! Whom a block must not hit by mistake: the host itself, its way to the world, those that the policy trusts, and whoever asks.

use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tracing::warn;

use crate::network::gateways;

/// Wider prefixes are hardly ever meant.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 32;

/// Addresses and prefixes, each with why.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    nets: Vec<(IpNet, &'static str)>,
}

/// Why something is not blocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{net} is not blocked: {hit} is {why}; --force blocks it all the same")]
    Protected { net: IpNet, hit: IpNet, why: &'static str },
    #[error("{net} is not blocked: it is wider than /{widest}; --force blocks it all the same")]
    Wide { net: IpNet, widest: u8 },
}

impl Protected {
    /// What this host knows by itself: its addresses, its gateways, its resolvers.
    pub fn of_host() -> Self {
        let mut protected = Self::default();
        for interface in getifaddrs().into_iter().flatten() {
            let Some(address) = interface.address else { continue };
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
            protected.add(v4.or(v6), "an address of this host");
        }
        match gateways() {
            Ok(gateways) => gateways
                .into_iter()
                .filter(|gateway| !gateway.is_unspecified())
                .for_each(|gateway| protected.add(Some(gateway), "a gateway of this host")),
            Err(error) => {
                warn!("the gateways of this host are not known, so none is protected from a block: {error}")
            }
        }
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
            for line in read(file).lines() {
                protected.add(resolver(line), "a name server of this host");
            }
        }
        protected
    }

    pub fn add(&mut self, address: Option<IpAddr>, why: &'static str) {
        self.nets.extend(address.map(|address| (IpNet::from(address), why)));
    }

    pub fn add_nets(&mut self, nets: impl IntoIterator<Item = IpNet>, why: &'static str) {
        self.nets.extend(nets.into_iter().map(|net| (net, why)));
    }

    /// Why `net` is not blocked, without what to do about it.
    pub fn why(&self, net: &IpNet) -> Option<String> {
        match self.check(net).err()? {
            Refusal::Protected { hit, why, .. } => Some(format!("{hit} is {why}")),
            Refusal::Wide { widest, .. } => Some(format!("it is wider than /{widest}")),
        }
    }

    /// # Errors
    /// When a block of `net` would hit somebody who is protected, or very many.
    pub fn check(&self, net: &IpNet) -> Result<(), Refusal> {
        let widest = if net.addr().is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
        if net.prefix_len() < widest {
            return Err(Refusal::Wide { net: *net, widest });
        }
        match self.nets.iter().find(|(hit, _)| net.contains(hit) || hit.contains(net)) {
            Some((hit, why)) => Err(Refusal::Protected { net: *net, hit: *hit, why }),
            None => Ok(()),
        }
    }
}

/// The IPv4 prefix that an IPv6 prefix of mapped addresses stands for: guard reads packets of such as the host does, as none.
pub fn mapped(net: &IpNet) -> Option<IpNet> {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = net else { return None };
    let v4 = v6.addr().to_ipv4_mapped()?;
    let net = IpNet::new(IpAddr::V4(v4), v6.prefix_len().checked_sub(MAPPED)?).ok()?;
    Some(net.trunc())
}

/// A line of resolv.conf.
fn resolver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read() {
        assert_eq!(resolver("nameserver 10.0.0.53"), Some("10.0.0.53".parse().unwrap()));
        assert_eq!(resolver("nameserver fe80::1%eth0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(resolver("search example.org"), None);
    }

    #[test]
    fn what_is_protected_is_refused_from_both_sides() {
        let mut protected = Protected::default();
        protected.add(Some("10.0.0.5".parse().unwrap()), "a test");
        protected.add_nets(["fd00:5::/64".parse().unwrap()], "a test");
        let cases = [
            ("10.0.0.5/32", false),
            ("10.0.0.0/24", false),
            ("10.0.0.6/32", true),
            ("fd00:5::1/128", false),
            ("fd00::/31", false),
            ("fd00:6::/64", true),
            ("0.0.0.0/0", false),
            ("64.0.0.0/7", false),
            ("64.0.0.0/8", true),
        ];
        for (net, fine) in cases {
            let checked = protected.check(&net.parse().unwrap());
            assert_eq!(checked.is_ok(), fine, "{net}: {checked:?}");
        }
    }

    #[test]
    fn mapped_addresses_are_known_by_what_they_mean() {
        for (net, meant) in [
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3/128", Some("10.1.2.3/32")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::/32", None),
            ("fd00::/64", None),
            ("10.0.0.0/8", None),
        ] {
            let meant: Option<IpNet> = meant.map(|meant| meant.parse().unwrap());
            assert_eq!(mapped(&net.parse().unwrap()), meant, "{net}");
        }
    }

    #[test]
    fn loopback_is_an_address_of_this_host() {
        assert!(Protected::of_host().check(&"127.0.0.1/32".parse().unwrap()).is_err());
    }
}
