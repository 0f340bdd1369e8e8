//! Many networks at once.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of addresses, by networks. To ask for one address takes as long for many networks as for few.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    /// First and last address, sorted, without a common address. IPv4 lies before IPv6.
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl Nets {
    pub fn new(nets: &[IpNet]) -> Self {
        let mut sorted: Vec<_> = nets.iter().map(|net| (net.network(), net.broadcast())).collect();
        sorted.sort_unstable();
        // Of two networks one holds the other, or they have nothing in common.
        sorted.dedup_by(|next, before| next.1 <= before.1);
        Self { ranges: sorted }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        self.ranges[..after].last().is_some_and(|(_, last)| address <= *last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0_u32..64, 26_u8..=32)
                .prop_map(|(address, length)| (IpAddr::from(address.to_be_bytes()), length)),
            (0_u128..64, 122_u8..=128)
                .prop_map(|(address, length)| (IpAddr::from(address.to_be_bytes()), length)),
        ]
        .prop_filter_map("lengths fit", |(address, length)| IpNet::new(address, length).ok())
    }

    proptest! {
        #[test]
        fn a_set_of_networks_has_the_addresses_of_each(nets in prop::collection::vec(net(), 0..12)) {
            let set = Nets::new(&nets);
            for low in 0_u8..70 {
                for address in [IpAddr::from([0, 0, 0, low]), IpAddr::from(u128::from(low).to_be_bytes())] {
                    let expected = nets.iter().any(|net| net.contains(&address));
                    prop_assert_eq!(set.contains(address), expected, "{}", address);
                }
            }
        }
    }
}
