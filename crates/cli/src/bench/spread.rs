//! What a list of figures comes down to.

use serde::Serialize;

/// A distribution. Percentiles are by nearest rank: one of the figures, never between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) mean: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl Spread {
    /// Of these figures; all zero when there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = figures.into_iter().collect();
        sorted.sort_unstable();
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let count = sorted.len() as u64;
        let sum: u128 = sorted.iter().map(|&figure| u128::from(figure)).sum();
        let mean = u64::try_from(sum / u128::from(count)).unwrap_or(u64::MAX);
        let p50 = percentile(&sorted, 50);
        let p99 = percentile(&sorted, 99);
        Self { count, min, mean, p50, p99, max }
    }
}

/// The smallest figure that at least `percent` of all are not above; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let spread = Spread::of(1..=100);
        assert_eq!((spread.min, spread.p50, spread.p99, spread.max), (1, 50, 99, 100));
        assert_eq!(Spread::of([15, 20, 35, 40, 50]).p50, 35);
        let few = Spread::of([3, 1, 2]);
        assert_eq!((few.mean, few.p50, few.p99), (2, 2, 3));
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([7]), Spread { count: 1, min: 7, mean: 7, p50: 7, p99: 7, max: 7 });
    }

    proptest! {
        #[test]
        fn a_spread_is_in_order_and_of_the_figures(figures in prop::collection::vec(any::<u64>(), 1..300)) {
            let spread = Spread::of(figures.clone());
            prop_assert!(spread.min <= spread.p50 && spread.p50 <= spread.p99);
            prop_assert!(spread.p99 <= spread.max);
            prop_assert!(spread.min <= spread.mean && spread.mean <= spread.max);
            for figure in [spread.min, spread.p50, spread.p99, spread.max] {
                prop_assert!(figures.contains(&figure));
            }
            let below = figures.iter().filter(|&&figure| figure <= spread.p99).count();
            prop_assert!(below * 100 >= figures.len() * 99);
        }
    }
}
