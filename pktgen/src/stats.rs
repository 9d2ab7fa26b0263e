//! Statistics of few repeats: [`median`], and [`rank_sum`], the exact test of Mann and Whitney.

/// The median of `sorted` (ascending); the mean of the middle two where their number is even, `None` of none.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((*sorted.get(middle - 1)? + upper) / 2.0)
}

/// The median of values in any order.
pub fn median_of(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}
