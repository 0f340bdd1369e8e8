use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

/// Sources that somebody has let in while they had more connections than the policy tolerates. What they have is no offence until it grows, or
/// has been tolerable in between: else the block would be back at the next look.
#[derive(Debug, Default)]
pub struct Pardons {
    /// With how many connections that are pardoned, once that is known.
    sources: HashMap<IpNet, Option<u64>>,
}

/// More than anybody lets in by hand. Past this none is remembered, and the next look blocks.
const MOST: usize = 10_000;

impl Pardons {
    /// Somebody lets in these sources, which were blocked automatically.
    pub fn grant<'a>(&mut self, sources: impl IntoIterator<Item = &'a IpNet>) {
        for source in sources {
            if self.sources.len() < MOST {
                self.sources.insert(*source, None);
            }
        }
    }

    /// Whether the source has no more connections than it was let in with. A tenth more is tolerated: clients close and open some.
    pub fn cover(&mut self, source: &IpNet, connections: u64) -> bool {
        match self.sources.get_mut(source) {
            None => false,
            Some(pardoned) => {
                let most = *pardoned.get_or_insert(connections.saturating_add(connections / 10));
                connections <= most
            }
        }
    }

    /// Ends those of sources that are not among the ones that have too many connections.
    pub fn keep(&mut self, offenders: &HashSet<IpNet>) {
        self.sources.retain(|source, _| offenders.contains(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_pardoned_until_it_grows_or_was_gone() {
        let [one, other]: [IpNet; 2] = ["10.0.0.1/32", "10.0.0.2/32"].map(|net| net.parse().unwrap());
        let mut pardons = Pardons::default();
        assert!(!pardons.cover(&one, 300), "nobody has let it in");
        pardons.grant([&one]);
        assert!(pardons.cover(&one, 300) && pardons.cover(&one, 330) && !pardons.cover(&one, 331));
        assert!(!pardons.cover(&other, 300));
        pardons.keep(&HashSet::from([one, other]));
        assert!(pardons.cover(&one, 300));
        pardons.keep(&HashSet::from([other]));
        assert!(!pardons.cover(&one, 300), "it had few in between");
    }

    #[test]
    fn pardons_are_bounded() {
        let nets: Vec<IpNet> = (0..2 * MOST as u32)
            .map(|number| std::net::Ipv4Addr::from(number).into())
            .map(|ip: std::net::IpAddr| ip.into())
            .collect();
        let mut pardons = Pardons::default();
        pardons.grant(&nets);
        assert_eq!(pardons.sources.len(), MOST);
    }
}
