//! How often which amounts came, to within 6 %, in as little memory for a day as for a minute.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

/// Each power of two is divided into so many buckets.
const PARTS_BITS: u32 = 4;

/// Counts amounts. Those below 16 are kept exactly, others as the upper end of their bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many amounts, by the upper end of the bucket.
    counts: BTreeMap<u64, u64>,
}

impl Histogram {
    pub fn add(&mut self, amount: u64) {
        *self.counts.entry(upper_end(amount)).or_default() += 1;
    }

    /// Counts an amount instead of one that was added before; one of 0 is counted nowhere.
    pub fn replace(&mut self, before: u64, amount: u64) {
        let (before, amount) = (upper_end(before), upper_end(amount));
        if before == amount {
            return;
        }
        if let Entry::Occupied(mut count) = self.counts.entry(before)
            && before > 0
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if amount > 0 {
            *self.counts.entry(amount).or_default() += 1;
        }
    }

    /// How much of all is beyond `most` in each, added up; with upper ends: at least what there was.
    pub fn beyond(&self, most: u64) -> u64 {
        self.iter().map(|(amount, count)| amount.saturating_sub(most).saturating_mul(count)).sum()
    }

    /// How many are beyond `most`, or may be.
    pub fn count_beyond(&self, most: u64) -> u64 {
        self.iter().filter(|(amount, _)| *amount > most).map(|(_, count)| count).sum()
    }

    /// The amounts with how many there are of each, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().map(|(amount, count)| (*amount, *count))
    }

    /// Which amount so many of all (0 to 1) do not exceed; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let all: u64 = self.counts.values().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut counted = 0;
        let found = self.iter().find(|(_, count)| {
            counted += count;
            counted >= wanted
        });
        found.map_or(0, |(amount, _)| amount)
    }
}

fn upper_end(amount: u64) -> u64 {
    let spare = u64::BITS - amount.leading_zeros();
    let Some(dropped) = spare.checked_sub(PARTS_BITS + 1) else { return amount };
    amount | ((1 << dropped) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_kept_to_within_a_part_of_itself() {
        for amount in (0..2000).chain([u64::from(u32::MAX), 1 << 40, u64::MAX]) {
            let kept = upper_end(amount);
            assert!(kept >= amount && kept - amount <= amount / 16, "{amount}: {kept}");
            assert_eq!(upper_end(kept), kept);
        }
    }

    #[test]
    fn an_amount_takes_the_place_of_another() {
        let mut histogram = Histogram::default();
        for (before, amount) in [(0, 7), (0, 1000), (7, 9), (9, 9), (1000, 1001)] {
            histogram.replace(before, amount);
        }
        assert_eq!(histogram.iter().map(|(_, count)| count).sum::<u64>(), 2);
        assert_eq!((histogram.count_beyond(8), histogram.count_beyond(9)), (2, 1));
        assert!((992..1063).contains(&histogram.beyond(9)), "{histogram:?}");
    }

    #[test]
    fn quantiles_are_of_all_amounts() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), 0);
        (0..99).for_each(|_| histogram.add(7));
        histogram.add(1000);
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99)), (7, 7));
        assert!((1000..1063).contains(&histogram.quantile(1.0)));
    }
}
