//! IP addresses.

use core::net::IpAddr;

/// `::ffff:0:0`, the prefix of IPv4 addresses in their IPv6-mapped form (RFC 4291, section 2.5.5.2).
const MAPPED: u128 = 0xffff_0000_0000;
const MAPPED_MASK: u128 = !0xffff_ffff;

/// An IP address of either family; IPv4 is held in its mapped form. No packet can have a mapped IPv6 source (the parser refuses
/// it), so the two families never meet in one table.
///
/// One number rather than an enum: where two paths of the program meet, every bit of it is known to the verifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(u128);

/// An address by its family, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    /// From the bytes in an IPv4 header.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self(MAPPED | u32::from_be_bytes(bytes) as u128)
    }

    /// From the bytes in an IPv6 header.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0 & MAPPED_MASK == MAPPED
    }

    #[inline(always)]
    pub const fn family(self) -> Family {
        if self.is_v4() {
            Family::V4((self.0 as u32).to_be_bytes())
        } else {
            Family::V6(self.0.to_be_bytes())
        }
    }

    /// The 16 bytes in network byte order, IPv4 in its mapped form.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the two numbers that [`words`](Self::words) returns.
    #[inline(always)]
    pub const fn of_words([high, low]: [u64; 2]) -> Self {
        Self((high as u128) << 64 | low as u128)
    }

    /// The same in two numbers.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    /// The address with the bits that are not in the mask of its family set to 0.
    #[inline(always)]
    pub const fn masked(self, ipv4: [u8; 4], ipv6: [u8; 16]) -> Self {
        let mask = if self.is_v4() {
            MAPPED_MASK | u32::from_be_bytes(ipv4) as u128
        } else {
            u128::from_be_bytes(ipv6)
        };
        Self(self.0 & mask)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.family() {
            Family::V4(bytes) => Self::V4(bytes.into()),
            Family::V6(bytes) => Self::V6(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn addresses_keep_their_family_and_their_bytes() {
        for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::1", "fd00:1::2", "ffff:ffff::ffff"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address, "{text}");
        }
    }

    #[test]
    fn a_mask_leaves_the_other_family_alone() {
        let (ipv4, mut ipv6) = ([255, 255, 255, 0], [0; 16]);
        ipv6[..8].fill(0xff);
        for (text, expected) in [("10.1.2.3", "10.1.2.0"), ("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::")] {
            let masked = Address::from(text.parse::<IpAddr>().unwrap()).masked(ipv4, ipv6);
            assert_eq!(IpAddr::from(masked), expected.parse::<IpAddr>().unwrap(), "{text}");
        }
    }
}
