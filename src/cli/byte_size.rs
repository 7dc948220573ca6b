//! Sizes as they are typed.

/// Units by their names, the decimal ones of memory chips' makers and the binary ones.
const UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("", 1),
];

/// Bytes of a size such as `2MB`, `1.5 GiB` or `4096`.
pub fn byte_size(text: &str) -> Result<usize, String> {
    let expected = || "must be a size such as `512MB` or `2GiB`".to_owned();
    let text = text.trim();
    let end = text.find(|character: char| character.is_ascii_alphabetic());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.to_ascii_uppercase();
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    let bytes = number * *scale as f64;
    // Beyond 2^53 a number of bytes has no exact f64, and no machine that much memory.
    if (0.0..=9_007_199_254_740_992.0).contains(&bytes) {
        Ok(bytes as usize)
    } else {
        Err(expected())
    }
}

#[cfg(test)]
mod tests {
    use super::byte_size;

    #[test]
    fn a_size_has_a_decimal_or_a_binary_unit() {
        let sizes = [
            ("0", 0),
            ("4096", 4096),
            ("2MB", 2_000_000),
            ("1.5 gib", 3 << 29),
            ("7 kB", 7000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1MB", "2 MBit", "nan", "inf", "1e300GB", "2TB2"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
    }
}
