//! The ports to look for, and at which addresses clients ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::nets::Nets;

/// Ports, each at any address or at some.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    numbers: BTreeSet<u16>,
    /// Of ports that count at some addresses only.
    destinations: BTreeMap<u16, Arc<Nets>>,
}

impl Ports {
    /// Adds ports at these destinations; at any if there are none.
    pub fn add(&mut self, numbers: impl IntoIterator<Item = u16>, destinations: &[IpNet]) {
        let nets = (!destinations.is_empty()).then(|| Arc::new(Nets::new(destinations)));
        for number in numbers {
            self.numbers.insert(number);
            self.destinations.extend(nets.clone().map(|nets| (number, nets)));
        }
    }

    pub const fn numbers(&self) -> &BTreeSet<u16> {
        &self.numbers
    }

    /// Whether what was asked for is one of these.
    pub fn include(&self, asked: SocketAddr) -> bool {
        self.numbers.contains(&asked.port()) && !self.are_elsewhere(asked)
    }

    /// Whether this port is one of these, at other addresses only.
    pub fn are_elsewhere(&self, asked: SocketAddr) -> bool {
        self.destinations.get(&asked.port()).is_some_and(|nets| !nets.contains(asked.ip()))
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(numbers: I) -> Self {
        Self { numbers: numbers.into_iter().collect(), destinations: BTreeMap::new() }
    }
}

impl<const N: usize> From<[u16; N]> for Ports {
    fn from(numbers: [u16; N]) -> Self {
        numbers.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_destinations_counts_there_only() {
        let mut ports = Ports::from([9000]);
        let destinations: Vec<IpNet> = ["10.0.0.1/32", "fd00::/64"].map(|net| net.parse().unwrap()).into();
        ports.add([8000, 8001], &destinations);
        for (asked, included, elsewhere) in [
            ("10.0.0.1:8000", true, false),
            ("10.0.0.2:8000", false, true),
            ("[fd00::7]:8001", true, false),
            ("[fd01::7]:8001", false, true),
            ("10.0.0.2:9000", true, false),
            ("10.0.0.1:9001", false, false),
        ] {
            let asked = asked.parse().unwrap();
            assert_eq!((ports.include(asked), ports.are_elsewhere(asked)), (included, elsewhere), "{asked}");
        }
    }
}
