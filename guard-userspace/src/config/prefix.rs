//! Prefixes as people write them, and what they may have meant.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::findings::Fault;

/// Length of the IPv4-mapped prefix `::ffff:0:0/96`.
const MAPPED: u8 = 96;

/// A network in CIDR form, or an address, which is a network of its own.
pub(super) fn parse(text: &str) -> Result<IpNet, Fault> {
    let net = match text.split_once('/') {
        None => IpNet::from(address(text, text)?),
        Some((start, length)) => network(text, address(start, text)?, length)?,
    };
    refuse_mapped(text, net)?;
    refuse_unspecified(text, net)?;
    if net.trunc() != net {
        let (network, host) = (net.trunc(), IpNet::from(net.addr()));
        return Err(Fault::about(text, "host bits set")
            .help(format!("write {network} for the network, or {host} for the one address")));
    }
    Ok(net)
}

fn address(address: &str, text: &str) -> Result<IpAddr, Fault> {
    address.parse().map_err(|_| {
        let fault = Fault::about(format!("{text:?}"), "not an IP address or a prefix");
        fault.help(meant(text).unwrap_or_else(|| {
            "write an address or a network, such as 192.0.2.7, 10.0.0.0/8 or fd00:1::/64".into()
        }))
    })
}

fn network(text: &str, address: IpAddr, length: &str) -> Result<IpNet, Fault> {
    let (family, bits) = match address {
        IpAddr::V4(_) => ("IPv4", 32),
        IpAddr::V6(_) => ("IPv6", 128),
    };
    if let (IpAddr::V4(address), Ok(mask)) = (address, length.parse::<Ipv4Addr>()) {
        let fault = Fault::about(text, "a prefix ends in its length, not in a netmask");
        return Err(match Ipv4Net::with_netmask(address, mask) {
            Ok(net) => fault.help(format!("write {}", net.trunc())),
            Err(_) => fault,
        });
    }
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits && (length == "0" || !length.starts_with('0'));
    let written = length;
    let length = length.parse().ok().filter(|length| digits && *length <= bits);
    let fault = || {
        Fault::about(
            format!("{text:?}"),
            format!("the length of an {family} prefix is a number from 0 to {bits}"),
        )
        .help(match written.trim_start_matches('0').parse::<u8>() {
            Ok(meant) if digits_but_zero(written) && meant <= bits => {
                format!("write {address}/{meant}, without the zero")
            }
            _ => format!(
                "a smaller number names a larger network; {address}/{bits} is the one address {address}"
            ),
        })
    };
    length.and_then(|length| IpNet::new(address, length).ok()).ok_or_else(fault)
}

fn digits_but_zero(length: &str) -> bool {
    length.len() > 1 && length.starts_with('0') && length.bytes().all(|byte| byte.is_ascii_digit())
}

/// The host takes packets of such a prefix as IPv4 ones, and so does guard: the prefix would never match.
fn refuse_mapped(text: &str, net: IpNet) -> Result<(), Fault> {
    let IpNet::V6(v6) = net else { return Ok(()) };
    let Some(v4) = v6.addr().to_ipv4_mapped() else { return Ok(()) };
    // A shorter one has host bits set, unless it is far more than the mapped addresses.
    let Some(length) = v6.prefix_len().checked_sub(MAPPED) else { return Ok(()) };
    let Ok(meant) = Ipv4Net::new(v4, length) else { return Ok(()) };
    Err(Fault::about(text, "an IPv4 address in IPv6 form, which no packet of IPv6 may carry")
        .help(format!("write {}", meant.trunc())))
}

/// No packet of a client carries the address that stands for no address. Programs that listen on it listen on all addresses, so operators
/// write it for everyone.
fn refuse_unspecified(text: &str, net: IpNet) -> Result<(), Fault> {
    if !net.addr().is_unspecified() || net.prefix_len() != net.max_prefix_len() {
        return Ok(());
    }
    let (family, everyone) = match net {
        IpNet::V4(_) => ("IPv4", "0.0.0.0/0"),
        IpNet::V6(_) => ("IPv6", "::/0"),
    };
    Err(Fault::about(format!("{text:?}"), "the address of no host: no client has it")
        .help(format!("write \"{everyone}\" for every address of {family}")))
}

/// What a text that is no address stands for, as far as it can be told.
fn meant(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if ["*", "any", "all", "0/0", "everyone"].contains(&lower.as_str()) {
        return Some("to name everyone, write \"0.0.0.0/0\" (IPv4) and \"::/0\" (IPv6)".into());
    }
    if text.trim() != text && parse(text.trim()).is_ok() {
        return Some(format!("write {} without the spaces", text.trim()));
    }
    if let Some(('[', ']')) = text.chars().next().zip(text.chars().last()) {
        return Some("write the address without brackets".into());
    }
    let (octets, length) = text.split_once('/').unwrap_or((text, ""));
    let is_number = |octet: &str| !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
    let has_zero = |octet: &str| octet.len() > 1 && octet.starts_with('0');
    if octets.split('.').all(is_number) && octets.split('.').any(has_zero) {
        return Some(
            "a number that begins with 0 is octal to some programs and decimal to others: write it without"
                .into(),
        );
    }
    let dots = octets.matches('.').count();
    if dots < 3 && octets.split('.').all(|octet| octet.parse::<u8>().is_ok()) {
        let full = format!("{octets}{}/{length}", ".0".repeat(3 - dots));
        let net = full.parse::<IpNet>().ok()?;
        return Some(format!("an IPv4 address has four numbers: write {}", net.trunc()));
    }
    if lower.bytes().any(|byte| byte.is_ascii_alphabetic()) && !lower.contains(':') {
        return Some("guard takes addresses, not names: a name can change while the policy stands".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_what_was_meant() {
        let cases = [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("192.0.2.7", Ok("192.0.2.7/32")),
            ("::/0", Ok("::/0")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("fd00:1::7", Ok("fd00:1::7/128")),
            ("10.0.5.1/24", Err("write 10.0.5.0/24 for the network, or 10.0.5.1/32")),
            ("fd00::1/64", Err("write fd00::/64 for the network, or fd00::1/128")),
            ("10.0.0/8", Err("write 10.0.0.0/8")),
            ("10/8", Err("write 10.0.0.0/8")),
            ("10.0.0.0/255.0.0.0", Err("write 10.0.0.0/8")),
            ("10.0.0.0/33", Err("from 0 to 32")),
            ("10.0.0.0/33", Err("10.0.0.0/32 is the one address 10.0.0.0")),
            ("0.0.0.0", Err("write \"0.0.0.0/0\" for every address of IPv4")),
            ("0.0.0.0/32", Err("write \"0.0.0.0/0\"")),
            ("::", Err("write \"::/0\" for every address of IPv6")),
            ("::/128", Err("write \"::/0\"")),
            ("0.0.0.0/8", Ok("0.0.0.0/8")),
            ("10.0.0.0/+8", Err("10.0.0.0/32 is the one address")),
            ("10.0.0.0/", Err("10.0.0.0/32 is the one address")),
            ("10.0.0.0/08", Err("write 10.0.0.0/8")),
            ("fd00::/064", Err("write fd00::/64")),
            ("0.0.0.0/00", Err("from 0 to 32")),
            ("010.0.0.1", Err("octal")),
            ("fd00::/129", Err("fd00::/128 is the one address fd00::")),
            ("::ffff:10.0.0.0/104", Err("write 10.0.0.0/8")),
            ("::ffff:192.0.2.7", Err("write 192.0.2.7/32")),
            ("::ffff:0:0/96", Err("write 0.0.0.0/0")),
            (" 10.0.0.0/8", Err("without the spaces")),
            ("[fd00::1]", Err("without brackets")),
            ("*", Err("\"0.0.0.0/0\" (IPv4) and \"::/0\"")),
            ("client.example", Err("not names")),
            ("10.0.0.1-10.0.0.9", Err("such as 192.0.2.7")),
            ("", Err("such as 192.0.2.7")),
        ];
        for (text, expected) in cases {
            match (parse(text), expected) {
                (Ok(net), Ok(expected)) => assert_eq!(net.to_string(), expected, "{text}"),
                (Err(fault), Err(expected)) => {
                    let fault = format!("{fault:?}").replace('\\', "");
                    assert!(fault.contains(expected), "{text}: {fault}");
                }
                (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
