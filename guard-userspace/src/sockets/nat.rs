//! Whether this host translates the destinations of what comes in: by the chains of nf_tables, the tables of the older iptables, and IPVS.

use std::fs;
use std::io::{self, ErrorKind};

use super::conntrack;
use super::netlink::{Channel, attributes, unreadable};

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETCHAIN (linux/netfilter/nfnetlink.h, nf_tables.h).
const GET_CHAINS: u16 = 10 << 8 | 4;
/// AF_UNSPEC, NFNETLINK_V0, no resource: an `nfgenmsg` that asks for every family.
const EVERY_FAMILY: [u8; 4] = [0; 4];
/// NFTA_CHAIN_HOOK, in it NFTA_HOOK_HOOKNUM, and NFTA_CHAIN_TYPE.
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const TYPE: u16 = 7;
/// NF_INET_PRE_ROUTING.
const PREROUTING: [u8; 4] = 0_u32.to_be_bytes();
/// The kernel ends names with a zero.
const NAT: &[u8] = b"nat\0";
/// The tables of the older iptables that are in use here; there is no such file without it.
const OLDER: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
const IPVS: &str = "/proc/net/ip_vs";
/// Absent where all of the kernel is in one piece.
const MODULES: &str = "/proc/modules";

/// Whether what comes in may be translated. What the kernel does not tell may be so. `channel` is one to netfilter.
pub(super) fn may_translate(channel: Option<&mut Channel>) -> bool {
    conntrack::is_loaded()
        && (fs::exists(IPVS).unwrap_or(true)
            || OLDER.iter().any(|file| names_nat(fs::read_to_string(file)))
            || channel.is_some_and(|channel| has_nat_chain(channel).unwrap_or(true)))
}

fn names_nat(names: io::Result<String>) -> bool {
    match names {
        Ok(names) => names.lines().any(|name| name == "nat"),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

fn has_nat_chain(channel: &mut Channel) -> io::Result<bool> {
    // To ask nf_tables would load it where it is not.
    if fs::read_to_string(MODULES).is_ok_and(|modules| is_missing(&modules)) {
        return Ok(false);
    }
    let mut found = false;
    let listed = channel.dump(GET_CHAINS, &EVERY_FAMILY, |chain| {
        found |= translates_incoming(chain)?;
        Ok(())
    });
    match listed {
        // A kernel without nf_tables.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        listed => listed.map(|()| found),
    }
}

/// Whether conntrack is a module, and nf_tables one that is not loaded.
fn is_missing(modules: &str) -> bool {
    let has = |name: &str| modules.lines().any(|line| line.split(' ').next() == Some(name));
    has("nf_conntrack") && !has("nf_tables")
}

fn translates_incoming(chain: &[u8]) -> io::Result<bool> {
    let (mut is_prerouting, mut is_nat) = (false, false);
    let attributes_of = chain.get(EVERY_FAMILY.len()..).ok_or_else(|| unreadable("no chain"))?;
    for attribute in attributes(attributes_of) {
        let attribute = attribute?;
        match attribute.kind() {
            HOOK => {
                for field in attributes(attribute.value()) {
                    let field = field?;
                    is_prerouting |= field.kind() == HOOK_NUMBER && field.value() == PREROUTING;
                }
            }
            TYPE => is_nat = attribute.value() == NAT,
            _ => {}
        }
    }
    Ok(is_prerouting && is_nat)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn modules_tell_whether_nf_tables_is_loaded() {
        let cases = [
            ("nf_conntrack 16384 1 nf_nat, Live 0x0\nnf_tables 1 0 - Live 0x0\n", false),
            ("nf_conntrack 16384 0 - Live 0x0\nnf_tables_set 1 0 - Live 0x0\n", true),
            ("veth 1 0 - Live 0x0\n", false),
        ];
        for (modules, expected) in cases {
            assert_eq!(is_missing(modules), expected, "{modules}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_tell_may_be_so() {
        let cases = [
            (Ok("filter\nnat\n".to_owned()), true),
            (Ok("filter\nnatural\n".to_owned()), false),
            (Err(ErrorKind::NotFound.into()), false),
            (Err(ErrorKind::PermissionDenied.into()), true),
        ];
        for (names, expected) in cases {
            let case = format!("{names:?}");
            assert_eq!(names_nat(names), expected, "{case}");
        }
    }

    proptest! {
        #[test]
        fn no_chain_makes_it_panic(chain in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = translates_incoming(&chain);
        }
    }
}
