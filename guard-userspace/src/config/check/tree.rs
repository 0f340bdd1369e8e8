//! Prefixes in the order that puts each right before all that lies within it: one pass knows what is around each.
//! Lists can have 100,000 prefixes; nothing here compares every one with every other.

use ipnet::IpNet;

/// Prefixes that each carry something.
pub(super) struct Tree<T> {
    nodes: Vec<Node<T>>,
}

pub(super) struct Node<T> {
    pub(super) net: IpNet,
    pub(super) value: T,
    /// The longest prefix around this one, or the first that is the same.
    around: Option<usize>,
}

impl<T> Tree<T> {
    /// Of equal prefixes, the one that comes first is around the others.
    pub(super) fn new(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let mut nodes: Vec<Node<T>> =
            entries.into_iter().map(|(net, value)| Node { net, value, around: None }).collect();
        // An `IpNet` sorts by address, then by length. The sort is stable.
        nodes.sort_by_key(|node| node.net);
        let mut open: Vec<(usize, IpNet)> = Vec::new();
        for (index, node) in nodes.iter_mut().enumerate() {
            while open.last().is_some_and(|(_, outer)| !outer.contains(&node.net)) {
                open.pop();
            }
            node.around = open.last().map(|(outer, _)| *outer);
            // Equal ones hang on the first, so that no path is longer than a prefix has bits.
            if open.last().is_none_or(|(_, outer)| *outer != node.net) {
                open.push((index, node.net));
            }
        }
        Self { nodes }
    }

    /// Each with the one right around it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Node<T>, Option<&Node<T>>)> {
        self.nodes.iter().map(|node| (node, node.around.and_then(|outer| self.nodes.get(outer))))
    }

    /// The prefixes that contain `net`, the longest first.
    pub(super) fn containing(&self, net: IpNet) -> impl Iterator<Item = &Node<T>> {
        let last = self.nodes.partition_point(|node| node.net <= net).checked_sub(1);
        let up = |index: &usize| self.nodes.get(*index).and_then(|node| node.around);
        let path = std::iter::successors(last, up).filter_map(|index| self.nodes.get(index));
        path.filter(move |node| node.net.contains(&net))
    }

    /// All that lie within `net`, itself included.
    pub(super) fn within(&self, net: IpNet) -> impl Iterator<Item = &Node<T>> {
        let first = self.nodes.partition_point(|node| node.net < net);
        self.nodes.iter().skip(first).take_while(move |node| net.contains(&node.net))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn net(address: u8, length: u8) -> IpNet {
        ipnet::Ipv4Net::new([address, 0, 0, 0].into(), length).unwrap().trunc().into()
    }

    proptest! {
        #[test]
        fn the_tree_says_what_comparing_all_says(
            entries in prop::collection::vec((any::<u8>(), 0u8..=8), 0..24),
            asked in (any::<u8>(), 0u8..=8),
        ) {
            let nets: BTreeSet<IpNet> =
                entries.into_iter().map(|(address, length)| net(address, length)).collect();
            let asked = net(asked.0, asked.1);
            let tree = Tree::new(nets.iter().map(|net| (*net, ())));

            let mut expected: Vec<IpNet> = nets.iter().copied().filter(|net| net.contains(&asked)).collect();
            expected.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
            let found: Vec<IpNet> = tree.containing(asked).map(|node| node.net).collect();
            prop_assert_eq!(found, expected);

            let mut expected: Vec<IpNet> = nets.iter().copied().filter(|net| asked.contains(net)).collect();
            expected.sort();
            let found: Vec<IpNet> = tree.within(asked).map(|node| node.net).collect();
            prop_assert_eq!(found, expected);

            for (node, around) in tree.iter() {
                let outer = nets.iter().filter(|net| net.contains(&node.net) && **net != node.net);
                let longest = outer.max_by_key(|net| net.prefix_len());
                prop_assert_eq!(around.map(|node| &node.net), longest);
            }
        }
    }
}
