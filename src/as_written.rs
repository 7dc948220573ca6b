//! Single-precision numbers as people write them.

/// `value` as a double that prints as a person writes it: 0.1 for the single next to it, not 0.10000000149011612.
pub fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
