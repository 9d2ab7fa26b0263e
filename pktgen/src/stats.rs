//! Statistics of few repeats: the median, and the rank-sum test of Mann and Whitney, exact.

/// Sums of ranks are counted exactly up to that many values in both samples together; beyond, as many of each sample
/// are taken as fit.
const MOST: usize = 200;

/// The median of `sorted` (ascending); the mean of the middle two where their number is even, `None` of none.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(lower + (upper - lower) / 2.0)
}

/// The median of values in any order.
pub fn median_of(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}

/// Two-sided probability that the ranks of two samples of one distribution lie as far apart as these do, or further:
/// counted over all ways to deal the values to the two samples, ties having their mean rank. 1 where one is empty.
pub fn rank_sum_p(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.get(..MOST / 2).unwrap_or(a), b.get(..MOST / 2).unwrap_or(b));
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let ranks = doubled_ranks(a, b);
    let observed: usize = ranks.iter().take(a.len()).sum();
    let expected = a.len() * (a.len() + b.len() + 1); // twice the mean rank, times the number
    let ways = ways_by_sum(&ranks, a.len());
    let distance = observed.abs_diff(expected);
    let all: f64 = ways.iter().sum();
    let far = ways.iter().enumerate().filter(|(sum, _)| sum.abs_diff(expected) >= distance);
    (far.map(|(_, ways)| ways).sum::<f64>() / all).min(1.0)
}

/// The smallest probability that [`rank_sum_p`] can give for samples of these sizes without ties.
pub fn least_rank_sum_p(a: usize, b: usize) -> f64 {
    let values =
        |from: usize, count: usize| (from..from + count).map(|value| value as f64).collect::<Vec<_>>();
    rank_sum_p(&values(0, a), &values(a, b))
}

/// Twice the rank of each value of `a` and then of `b` among all, so that the mean rank of ties is whole.
fn doubled_ranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let rank = |value: &f64| {
        let all = || a.iter().chain(b);
        let below = all().filter(|other| *other < value).count();
        let same = all().filter(|other| *other == value).count();
        2 * below + same + 1
    };
    a.iter().chain(b).map(rank).collect()
}

/// In how many ways `count` of the ranks can be chosen to give each sum.
fn ways_by_sum(ranks: &[usize], count: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    // ways[chosen][sum]
    let mut ways = vec![vec![0.0; most + 1]; count + 1];
    if let Some(first) = ways.first_mut().and_then(|row| row.first_mut()) {
        *first = 1.0;
    }
    for rank in ranks {
        for chosen in (1..=count).rev() {
            let (before, from) = ways.split_at_mut(chosen);
            let (Some(before), Some(row)) = (before.last(), from.first_mut()) else { continue };
            for sum in *rank..=most {
                row[sum] += before[sum - rank];
            }
        }
    }
    ways.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn medians() {
        assert_eq!(median_of(&[]), None);
        assert_eq!(median_of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median_of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn probabilities_are_those_of_the_tables() {
        // Complete separation: 2 of C(n + m, n) ways.
        assert!((least_rank_sum_p(3, 3) - 0.1).abs() < 1e-12);
        assert!((least_rank_sum_p(4, 4) - 2.0 / 70.0).abs() < 1e-12);
        assert!((least_rank_sum_p(5, 5) - 2.0 / 252.0).abs() < 1e-12);
        assert_eq!(rank_sum_p(&[1.0, 2.0], &[1.0, 2.0]), 1.0);
        assert_eq!(rank_sum_p(&[1.0; 5], &[1.0; 5]), 1.0);
        assert_eq!(rank_sum_p(&[], &[1.0]), 1.0);
        // Many repeats are taken in part, in no time.
        assert!(rank_sum_p(&vec![1.0; 10_000], &vec![2.0; 10_000]) < 1e-6);
    }

    /// The slow twin: every way to deal the values, one after the other.
    fn slow(a: &[f64], b: &[f64]) -> f64 {
        let ranks = doubled_ranks(a, b);
        let expected = (a.len() * (ranks.len() + 1)) as i64;
        let distance = |hand: usize| {
            let of = |(index, rank): (usize, &usize)| if hand >> index & 1 == 1 { *rank as i64 } else { 0 };
            (ranks.iter().enumerate().map(of).sum::<i64>() - expected).abs()
        };
        let hands: Vec<usize> =
            (0..1usize << ranks.len()).filter(|hand| hand.count_ones() as usize == a.len()).collect();
        let observed = distance((1 << a.len()) - 1);
        let far = hands.iter().filter(|hand| distance(**hand) >= observed).count();
        far as f64 / hands.len() as f64
    }

    proptest! {
        #[test]
        fn agrees_with_dealing_out_every_hand(
            a in proptest::collection::vec((0u8..6).prop_map(f64::from), 1..6),
            b in proptest::collection::vec((0u8..6).prop_map(f64::from), 1..6),
        ) {
            prop_assert!((rank_sum_p(&a, &b) - slow(&a, &b)).abs() < 1e-9);
            prop_assert!((rank_sum_p(&a, &b) - rank_sum_p(&b, &a)).abs() < 1e-9);
        }
    }
}
