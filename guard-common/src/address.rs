//! IP addresses as the bytes that are on the wire.

/// The first 12 bytes of an IPv4 address in its IPv6-mapped form (RFC 4291, section 2.5.5.2).
pub const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IP address in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    /// The address in 16 bytes; IPv4 in its mapped form. No packet can have a mapped IPv6 source (the parser
    /// refuses it), so the two families never meet in one table.
    #[inline(always)]
    pub fn mapped(self) -> [u8; 16] {
        match self {
            Self::V4([a, b, c, d]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
            Self::V6(bytes) => bytes,
        }
    }

    /// The inverse of [`mapped`](Self::mapped).
    pub fn from_mapped(bytes: [u8; 16]) -> Self {
        match bytes {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Self::V4([a, b, c, d]),
            other => Self::V6(other),
        }
    }

    /// Whether this is `::ffff:a.b.c.d`, which must not stand in an IPv6 header: Linux drops it too.
    #[inline(always)]
    pub fn is_mapped_v6(self) -> bool {
        match self {
            Self::V4(_) => false,
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, _, _, _, _]) => true,
            Self::V6(_) => false,
        }
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::V4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::V6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bytes) => Self::V4(bytes.into()),
            Address::V6(bytes) => Self::V6(bytes.into()),
        }
    }
}
