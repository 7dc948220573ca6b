//! Values below which a share of others lies.

/// The value below which the share `probability`, 0 to 1, of `values` lies, between values on a straight line: definition 7 of
/// Hyndman and Fan (1996, The American Statistician 50, 361-365), the default of R and of `NumPy`; `None` without a value.
pub fn quantile(values: &[f64], probability: f64) -> Option<f64> {
    quantile_of_sorted(&sorted(values.iter().copied()), probability)
}

/// [`quantile`] of values from the smallest to the largest.
pub fn quantile_of_sorted(sorted: &[f64], probability: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = probability.clamp(0.0, 1.0) * last as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// The one of `values` in the middle, the upper of two; `None` without a value.
pub fn upper_median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted = sorted(values);
    sorted.get(sorted.len() / 2).copied()
}

/// The one of `values` in the middle, the lower of two; `None` without a value.
pub fn lower_median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted = sorted(values);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}
