//! Counts in files of measurements that other programs may have written.

use serde_json::Value;

/// Largest whole number that is taken for a count: every reader of JSON keeps it exactly (RFC 8259, section 6), and two thousand of
/// them can be summed in 64 bits.
pub const LARGEST_COUNT: u64 = 1 << 53;

/// Key of the whole numbers that count nothing.
const SEED: &str = "seed";

/// The first whole number in `value` that is beyond [`LARGEST_COUNT`], with its place; `None` where all can be counted with.
pub fn beyond_counting(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs))?;
            (size > LARGEST_COUNT).then(|| format!(": {number}, more than can be counted"))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(place, item)| Some(format!("[{place}]{}", beyond_counting(item)?))),
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| *key != SEED)
            .find_map(|(key, field)| Some(format!(".{key}{}", beyond_counting(field)?))),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{LARGEST_COUNT, beyond_counting};

    #[test]
    fn a_number_beyond_all_counts_is_found_with_its_place() {
        let found = beyond_counting(&json!({"a": {"b": [1, {"c": LARGEST_COUNT + 1}]}}));
        assert_eq!(
            found.as_deref(),
            Some(".a.b[1].c: 9007199254740993, more than can be counted")
        );
        assert!(beyond_counting(&json!([i64::MIN])).is_some());
    }

    #[test]
    fn counts_and_seeds_and_measures_are_let_pass() {
        let value = json!({"count": LARGEST_COUNT, "seed": u64::MAX, "measure": 1e300, "text": "9".repeat(30)});
        assert_eq!(beyond_counting(&value), None);
    }
}
