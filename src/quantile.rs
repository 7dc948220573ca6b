//! Values below which a share of others lies.

/// The value below which the share `probability`, 0 to 1, of `values` lies, between values on a straight line: definition 7 of
/// Hyndman and Fan (1996, The American Statistician 50, 361-365), the default of R and of `NumPy`; `None` without a value.
pub fn quantile(values: &[f64], probability: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, probability)
}

/// [`quantile`] of values from the smallest to the largest.
pub fn quantile_of_sorted(sorted: &[f64], probability: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = probability.clamp(0.0, 1.0) * last as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}
