//! Numbers as findings and reports print them.

/// A count with its noun in the right number, for example `1 step` or `3 steps`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let number = grouped(count as u64);
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("{number} {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// A count with a comma after every three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A loss in nats, or `not finite`.
pub(crate) fn nats(loss: Option<f64>) -> String {
    match loss {
        Some(value) => format!("{value:.3}"),
        None => "not finite".to_owned(),
    }
}

/// A number of any size in its shortest form, for example `0.001`, `1e-5` or `20`.
pub(crate) fn shortest(value: f64) -> String {
    let plain = value.to_string();
    let scientific = format!("{value:e}");
    if scientific.len() < plain.len() {
        scientific
    } else {
        plain
    }
}
