//! Whether clients reach the servers behind guarded ports through those ports, as far as this host can tell.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::conntrack::Translations;
use super::{Error, Sockets, diag, filter, nat};

/// Not 0 where the host forwards packets; there is no such file without the family.
const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// What is known of the ways to guarded ports. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Ports of this host that are not guarded, and the servers with a guarded port that clients reach through them.
    pub detours: BTreeSet<(u16, SocketAddr)>,
    /// Guarded ports that no server listens on.
    pub silent: BTreeSet<u16>,
    /// Guarded ports that servers listen on for programs of this host only.
    pub loopback: BTreeSet<u16>,
}

impl Sockets {
    /// How clients reach these ports, by the sockets now and the translations of the last look.
    ///
    /// # Errors
    /// When the sockets of the own namespace or the addresses of this host cannot be listed.
    pub fn reach(&mut self, ports: &BTreeSet<u16>) -> Result<Reach, Error> {
        let mut reach = Reach::default();
        let mut detours = detours(&self.translations, ports).peekable();
        if detours.peek().is_some() {
            let own = own_addresses().map_err(Error::List)?;
            let ours = detours.filter(|(asked, _)| own.contains(&asked.ip()));
            reach.detours = ours.map(|(asked, reached)| (asked.port(), *reached)).collect();
        }
        let Some(elsewhere) = &self.listening_elsewhere else { return Ok(reach) };
        if ports.is_empty() || forwards() || nat::may_translate(self.conntrack.channel()) {
            return Ok(reach);
        }
        let program = filter::program(ports);
        let listeners = diag::listeners(&mut self.own.channel, program.as_deref()).map_err(Error::List)?;
        let [mut open, mut loopback] = [BTreeSet::new(), BTreeSet::new()];
        for listener in listeners {
            let set = if listener.ip().is_loopback() { &mut loopback } else { &mut open };
            set.insert(listener.port());
        }
        open.extend(elsewhere);
        for port in ports.difference(&open) {
            let set = if loopback.contains(port) { &mut reach.loopback } else { &mut reach.silent };
            set.insert(*port);
        }
        Ok(reach)
    }
}

/// The translations that lead from ports that are not guarded to those that are.
fn detours<'a>(
    translations: &'a Translations,
    guarded: &BTreeSet<u16>,
) -> impl Iterator<Item = &'a (SocketAddr, SocketAddr)> {
    translations.ways().iter().filter(|(asked, reached)| {
        !asked.ip().is_loopback() && !guarded.contains(&asked.port()) && guarded.contains(&reached.port())
    })
}

/// Whether packets that come in may leave again for another host or a container; so it is where the kernel does not tell.
fn forwards() -> bool {
    FORWARDING.iter().any(|file| match fs::read_to_string(file) {
        Ok(text) => text.trim() != "0",
        Err(error) => error.kind() != ErrorKind::NotFound,
    })
}

fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let ip = |address: SockaddrStorage| -> Option<IpAddr> {
        let four = address.as_sockaddr_in().map(|address| address.ip().into());
        four.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    Ok(getifaddrs()?.filter_map(|interface| ip(interface.address?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_way_around_a_guarded_port_is_a_detour() {
        let cases = [
            ("10.0.0.1:9000", "172.17.0.2:8000", true),
            ("[fd00::1]:9000", "[fd17::2]:8000", true),
            ("10.0.0.1:80", "10.0.0.1:8000", true),
            ("10.0.0.1:8000", "172.17.0.2:8000", false),
            ("10.0.0.1:8001", "172.17.0.2:8000", false),
            ("10.0.0.1:9000", "172.17.0.2:9000", false),
            ("127.0.0.1:9000", "172.17.0.2:8000", false),
        ];
        let guarded = BTreeSet::from([8000, 8001]);
        for (asked, reached, expected) in cases {
            let way = (asked.parse().unwrap(), reached.parse().unwrap());
            let translations = Translations::of_ways([way]);
            let found: Vec<_> = detours(&translations, &guarded).collect();
            assert_eq!(found, [&way][..usize::from(expected)], "{asked} to {reached}");
        }
    }
}
