//! Numbers of the command line that have to lie within bounds.

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

fn number(text: &str, accepted: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Everything is computed in f32 at most, where larger numbers are infinite.
        Ok(number) if (number as f32).is_finite() && accepted(number) => Ok(number),
        _ => Err(format!("must be {expected}")),
    }
}

pub fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |number| number >= 0.0, "a finite number that is not negative")
}

pub fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "a finite number above 0")
}

pub fn probability(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| (0.0..1.0).contains(&number),
        "a number from 0 to below 1",
    )
}
