//! Which interfaces are to be guarded: what the policy asks for, what stays, and what lies below.
//!
//! Unknown is not unwanted. An interface that an entry of the policy asked for once stays guarded for as long as a policy has that entry, even
//! when the entry no longer leads to it: a default route that moved, a name that changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::DEFAULT_ROUTE;
use crate::network::{Missing, Network, resolve};

/// The entries of the policy that ask for an interface.
pub(super) type Askers = BTreeSet<String>;

/// What is to be done about the interfaces of this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// To be guarded, by index.
    pub(super) guard: BTreeMap<u32, Askers>,
    /// Guarded, and asked for by no entry.
    pub(super) leave: BTreeSet<u32>,
    /// Asked for, and guarded by what lies below.
    pub(super) covered: BTreeMap<u32, Askers>,
    /// In `guard` because it was asked for before: what it is told to be.
    pub(super) stays: BTreeMap<u32, String>,
    pub(super) missing: Vec<(String, Missing)>,
}

/// What a policy asks for, and what the policy asks for that may come back.
pub(super) struct Entries<'a> {
    pub(super) policy: &'a [String],
    pub(super) kept: &'a [String],
}

impl Entries<'_> {
    fn all(&self) -> impl Iterator<Item = &String> {
        self.policy.iter().chain(self.kept)
    }

    /// All of them: for an interface that is guarded, and of which nobody knows why.
    pub(super) fn to_askers(&self) -> Askers {
        self.all().cloned().collect()
    }
}

impl Wanted {
    /// `guarded`: the interfaces that have the program, and which entries asked for each.
    pub(super) fn of(entries: &Entries<'_>, guarded: &BTreeMap<u32, Askers>, network: &Network) -> Self {
        let mut wanted = Self::default();
        let mut asked: BTreeMap<u32, Askers> = BTreeMap::new();
        for entry in entries.policy {
            match resolve(entry, network) {
                Ok(found) => found.into_iter().for_each(|index| note(&mut asked, index, entry)),
                Err(missing) => wanted.missing.push((entry.clone(), missing)),
            }
        }
        for entry in entries.kept {
            let found = resolve(entry, network).unwrap_or_default();
            found
                .into_iter()
                .filter(|index| guarded.contains_key(index))
                .for_each(|index| note(&mut asked, index, entry));
        }
        for (index, askers) in guarded {
            let still: Vec<_> = entries.all().filter(|entry| askers.contains(*entry)).collect();
            match (asked.contains_key(index), still.first()) {
                (false, None) => {
                    wanted.leave.insert(*index);
                    continue;
                }
                (false, Some(entry)) => {
                    wanted.stays.insert(*index, stays(entry));
                }
                (true, _) => {}
            }
            still.into_iter().for_each(|entry| note(&mut asked, *index, entry));
        }
        wanted.lower(asked, network);
        wanted
    }

    /// Puts the lowest devices in the place of those above them: no packet is judged twice. Of a bridge or a bond of which one part is guarded
    /// each part is, so that nothing that was asked for is left out.
    fn lower(&mut self, mut asked: BTreeMap<u32, Askers>, network: &Network) {
        loop {
            let all: BTreeSet<u32> = asked.keys().copied().collect();
            let upper = all.iter().copied().find(|index| !network.all_below(*index).is_disjoint(&all));
            let Some((upper, askers)) = upper.and_then(|upper| asked.remove_entry(&upper)) else { break };
            for lower in network.lowers(upper) {
                asked.entry(lower).or_default().extend(askers.iter().cloned());
            }
            self.stays.remove(&upper);
            self.covered.insert(upper, askers);
        }
        self.guard = asked;
    }
}

fn note(asked: &mut BTreeMap<u32, Askers>, index: u32, entry: &str) {
    asked.entry(index).or_default().insert(entry.to_owned());
}

fn stays(entry: &str) -> String {
    let what = match entry {
        DEFAULT_ROUTE => "no default route leads over it any longer".to_owned(),
        _ => format!("{entry:?} of the policy does not lead to it any longer"),
    };
    format!("{what}; it stays guarded until a policy without that entry is live, or until `guard detach`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Link;

    fn link(index: u32, name: &str, kind: &str, controller: Option<u32>, lower: Option<u32>) -> Link {
        let kind = Some(kind.to_owned());
        Link { index, name: name.into(), kind, controller, lower, ..Link::default() }
    }

    fn network(uplinks: &[u32]) -> Network {
        let links = vec![
            Link { is_loopback: true, ..link(1, "lo", "", None, None) },
            link(2, "eth0", "", None, None),
            link(3, "eth1", "", None, None),
            link(4, "p0", "", Some(6), None),
            link(5, "p1", "", Some(6), None),
            link(6, "br0", "bridge", None, None),
            link(7, "eth0.5", "vlan", None, Some(2)),
        ];
        Network { links, uplinks: uplinks.iter().copied().collect(), ..Network::default() }
    }

    fn wanted(policy: &[&str], guarded: &[(u32, &[&str])], network: &Network) -> Wanted {
        let policy: Vec<String> = policy.iter().map(|entry| (*entry).to_owned()).collect();
        let owned = |askers: &[&str]| askers.iter().map(|entry| (*entry).to_owned()).collect();
        let guarded = guarded.iter().map(|(index, askers)| (*index, owned(askers))).collect();
        Wanted::of(&Entries { policy: &policy, kept: &[] }, &guarded, network)
    }

    fn guard(wanted: &Wanted) -> Vec<u32> {
        wanted.guard.keys().copied().collect()
    }

    #[test]
    fn what_was_guarded_because_of_a_default_route_stays() {
        let policy = ["default-route"];
        let before = wanted(&policy, &[], &network(&[2]));
        assert_eq!(guard(&before), [2]);
        for (uplinks, expected) in [(&[3][..], &[2, 3][..]), (&[], &[2])] {
            let moved = wanted(&policy, &[(2, &policy)], &network(uplinks));
            assert_eq!(guard(&moved), expected);
            assert_eq!((moved.leave.len(), moved.stays.len()), (0, 1));
            assert_eq!(moved.missing.is_empty(), !uplinks.is_empty(), "{moved:?}");
        }
    }

    #[test]
    fn only_a_policy_without_the_entry_lets_an_interface_go() {
        let network = network(&[3]);
        let renamed = wanted(&["nic*"], &[(2, &["nic*"])], &network);
        assert_eq!((guard(&renamed), renamed.missing.len()), (vec![2], 1));
        let other = wanted(&["eth1"], &[(2, &["eth0"])], &network);
        assert_eq!((guard(&other), other.leave), (vec![3], BTreeSet::from([2])));
        let both = wanted(&["default-route"], &[(2, &["eth0", "default-route"])], &network);
        assert_eq!((guard(&both), both.leave.len()), (vec![2, 3], 0));
    }

    #[test]
    fn the_lowest_device_is_guarded_and_all_parts_of_a_bridge() {
        let network = network(&[]);
        let vlan = wanted(&["eth*"], &[], &network);
        assert_eq!(guard(&vlan), [2, 3]);
        assert!(vlan.covered.contains_key(&7));
        let bridge = wanted(&["br0"], &[], &network);
        assert_eq!(guard(&bridge), [6], "its parts may be those of guests");
        let part = wanted(&["br0", "p0"], &[], &network);
        assert_eq!(guard(&part), [4, 5]);
        assert_eq!(part.guard[&5], Askers::from(["br0".to_owned()]));
        assert!(part.covered.contains_key(&6));
        let moved = wanted(&["p0"], &[(6, &["br0"])], &network);
        assert_eq!((guard(&moved), moved.leave), (vec![4], BTreeSet::from([6])));
    }

    #[test]
    fn the_interfaces_of_a_policy_that_may_come_back_stay() {
        let network = network(&[]);
        let (policy, kept) = (["eth1".to_owned()], ["eth0".to_owned(), "p0".to_owned()]);
        let guarded = BTreeMap::from([(2, Askers::from(["eth0".to_owned()]))]);
        let wanted = Wanted::of(&Entries { policy: &policy, kept: &kept }, &guarded, &network);
        assert_eq!(guard(&wanted), [2, 3], "what was not guarded is not guarded for it");
        assert!(wanted.leave.is_empty());
    }
}
