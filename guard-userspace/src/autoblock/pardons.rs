use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

/// Sources that an operator has let in while they had connections open. What they had at that moment is no offence until it grows, or
/// has been tolerable in between: else the block would be back at the next look.
#[derive(Debug, Default)]
pub struct Pardons {
    /// How many connections are pardoned, by source and service.
    sources: HashMap<(IpNet, String), u64>,
}

/// More than anybody lets in by hand. Past this none is remembered, and the next look blocks.
const MOST: usize = 10_000;

impl Pardons {
    /// An operator lets in a source that was blocked automatically and has so many connections open at a service. A tenth more is tolerated:
    /// clients close and open some. A source with nothing open is pardoned nothing.
    pub fn grant(&mut self, source: IpNet, service: &str, open: u64) {
        if open > 0 && self.sources.len() < MOST {
            self.sources.insert((source, service.to_owned()), open.saturating_add(open / 10));
        }
    }

    /// Ends what the source was pardoned before.
    pub fn forget(&mut self, source: &IpNet) {
        self.sources.retain(|(pardoned, _), _| pardoned != source);
    }

    /// Whether the source, or a prefix around it, was let in with no fewer connections than it has.
    pub fn cover(&self, source: &IpNet, service: &str, connections: u64) -> bool {
        let around =
            |((pardoned, of), _): &(&(IpNet, String), &u64)| of == service && pardoned.contains(source);
        self.sources.iter().filter(around).any(|(_, most)| connections <= *most)
    }

    /// Ends those of sources that are not among the ones that have too many connections.
    pub fn keep(&mut self, offenders: &HashSet<IpNet>) {
        let is_over =
            |source: &IpNet| offenders.iter().any(|net| net.contains(source) || source.contains(net));
        self.sources.retain(|(source, _), _| is_over(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_open_at_the_unblock_is_pardoned_until_it_grows_or_was_gone() {
        let [one, other] = ["10.0.0.1/32", "10.0.0.2/32"].map(net);
        let mut pardons = Pardons::default();
        assert!(!pardons.cover(&one, "a", 300), "no operator has let it in");
        pardons.grant(one, "a", 300);
        assert!(pardons.cover(&one, "a", 300) && pardons.cover(&one, "a", 330));
        assert!(!pardons.cover(&one, "a", 331) && !pardons.cover(&one, "b", 1));
        assert!(!pardons.cover(&other, "a", 300));
        pardons.keep(&HashSet::from([one, other]));
        assert!(pardons.cover(&one, "a", 300));
        pardons.keep(&HashSet::from([other]));
        assert!(!pardons.cover(&one, "a", 300), "it had few in between");
    }

    #[test]
    fn a_source_with_nothing_open_is_pardoned_nothing() {
        let one = net("10.0.0.1/32");
        let mut pardons = Pardons::default();
        pardons.grant(one, "a", 0);
        assert!(!pardons.cover(&one, "a", 1));
        pardons.grant(one, "a", 300);
        pardons.forget(&one);
        pardons.grant(one, "a", 0);
        assert!(!pardons.cover(&one, "a", 1), "the last unblock counts");
    }

    #[test]
    fn an_address_is_covered_by_the_pardon_of_its_prefix() {
        let mut pardons = Pardons::default();
        pardons.grant(net("fd00:1::/64"), "a", 300);
        assert!(pardons.cover(&net("fd00:1::7/128"), "a", 300));
        assert!(!pardons.cover(&net("fd00:2::7/128"), "a", 300));
        pardons.keep(&HashSet::from([net("fd00:1::/64")]));
        assert!(pardons.cover(&net("fd00:1::7/128"), "a", 300));
    }

    #[test]
    fn pardons_are_bounded() {
        let mut pardons = Pardons::default();
        for number in 0..2 * MOST as u32 {
            let ip: std::net::IpAddr = std::net::Ipv4Addr::from(number).into();
            pardons.grant(ip.into(), "a", 1);
        }
        assert_eq!(pardons.sources.len(), MOST);
    }
}
