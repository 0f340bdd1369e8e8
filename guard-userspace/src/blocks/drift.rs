//! Whether the kernel still has what it was told: another program may have changed its tables.
//!
//! Of addresses, of which there may be a million, only a sum over all entries is held in memory; it is compared with the same sum over the
//! table. Which entries differ is found out where the sums do, from the ledger.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use ipnet::IpNet;

use super::nested::Ends;

/// A sum over entries, in whatever order they come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    entries: usize,
    sum: u64,
}

impl Digest {
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn add(&mut self, net: &IpNet, ends: Ends) {
        self.entries = self.entries.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(net, ends));
    }

    pub(super) fn remove(&mut self, net: &IpNet, ends: Ends) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(net, ends));
    }
}

fn hash(net: &IpNet, ends: Ends) -> u64 {
    let mut hasher = DefaultHasher::new();
    (net, ends.host.nanoseconds(), ends.services.nanoseconds()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::abi::End;

    fn ends(services: u64) -> Ends {
        Ends { host: End::NONE, services: End::not_before(services * 1_000_000_000) }
    }

    #[test]
    fn a_digest_is_of_what_is_there_and_not_of_how_it_came() {
        let nets: Vec<IpNet> =
            ["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"].map(|net| net.parse().unwrap()).into();
        let (mut one, mut other) = (Digest::default(), Digest::default());
        nets.iter().for_each(|net| one.add(net, ends(7)));
        nets.iter().rev().for_each(|net| other.add(net, ends(7)));
        assert_eq!((one, one.entries()), (other, 3));
        other.remove(&nets[1], ends(7));
        assert_ne!(one, other, "one is gone");
        other.add(&nets[1], ends(8));
        assert_ne!(one, other, "one ends later");
        other.remove(&nets[1], ends(8));
        other.add(&nets[1], ends(7));
        assert_eq!(one, other);
    }
}
