//! Whom services in mode `monitor` would have had blocked, so that an operator sees it before the mode is `enforce`.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Automatic;

/// A block that was not made, since the service only monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypothetical {
    pub net: IpNet,
    pub service: String,
    pub reason: String,
    /// Seconds that the block would have lasted.
    pub lasts_seconds: u64,
    /// When it was due last, in milliseconds since the epoch.
    pub at_ms: u64,
    /// How often it was due since the agent started.
    pub times: u64,
}

/// The latest of them, by source and service.
#[derive(Debug, Default)]
pub struct WouldBlock(HashMap<(IpNet, String), Hypothetical>);

/// More than anybody reads. Past these the oldest gives way.
const MOST: usize = 1000;

impl WouldBlock {
    /// Notes a block that is due at `at_ms`. Returns whether it is the first of its source for as long as it would have lasted: those are
    /// worth telling.
    pub fn note(&mut self, block: &Automatic, at_ms: u64) -> bool {
        let key = (block.net, block.evidence.service.clone());
        if !self.0.contains_key(&key) && self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.at_ms).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let new = Hypothetical {
            net: block.net,
            service: block.evidence.service.clone(),
            reason: block.reason.clone(),
            lasts_seconds: block.lasts.as_secs(),
            at_ms,
            times: 0,
        };
        let known = self.0.entry(key).or_insert_with(|| new.clone());
        let is_over = at_ms.saturating_sub(known.at_ms) >= known.lasts_seconds.saturating_mul(1000);
        let is_due = known.times == 0 || is_over;
        let times = known.times.saturating_add(is_due.into());
        let at_ms = if is_due { at_ms } else { known.at_ms };
        *known = Hypothetical { times, at_ms, ..new };
        is_due
    }

    /// The latest first.
    pub fn list(&self) -> Vec<Hypothetical> {
        let mut list: Vec<_> = self.0.values().cloned().collect();
        list.sort_by(|one, other| (other.at_ms, &one.net).cmp(&(one.at_ms, &other.net)));
        list
    }

    /// Forgets those of services that `monitors` does not hold any longer.
    pub fn keep(&mut self, monitors: impl Fn(&str) -> bool) {
        self.0.retain(|(_, service), _| monitors(service));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::autoblock::{Evidence, Kind};
    use crate::blocks::Scope;

    fn block(last: u32) -> Automatic {
        let evidence = Evidence {
            kind: Kind::Limited,
            service: "web".into(),
            count: 9,
            threshold: 5,
            window: None,
            strike: 1,
        };
        let net = IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(last)));
        let (lasts, reason) = (Duration::from_secs(10), "too much".into());
        Automatic { net, scope: Scope::Services, lasts, strike: 1, evidence, kill: true, reason }
    }

    #[test]
    fn one_for_as_long_as_the_block_would_last() {
        let mut would = WouldBlock::default();
        let told = [0, 1, 9_999, 10_000, 10_001].map(|at| would.note(&block(1), at));
        assert_eq!(told, [true, false, false, true, false]);
        assert_eq!((would.list()[0].times, would.list()[0].at_ms), (2, 10_000));
        would.keep(|service| service == "other");
        assert!(would.list().is_empty());
    }

    #[test]
    fn the_latest_are_kept() {
        let mut would = WouldBlock::default();
        for number in 0..1100 {
            would.note(&block(number), u64::from(number));
        }
        let list = would.list();
        assert_eq!((list.len(), list[0].at_ms, list[999].at_ms), (MOST, 1099, 100));
    }
}
