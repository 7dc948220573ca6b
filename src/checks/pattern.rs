use crate::suggestion::closest;

/// Stands for any text within a pattern.
const ANY: char = '*';

/// Whether `path` is what `pattern` describes.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split(ANY);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(start) => rest = &rest[start + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether `path` is what one of the patterns describes.
pub(super) fn any_matches(patterns: &[&str], path: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, path))
}

/// The patterns that describe none of `paths`, each with the path that is most like it.
pub(super) fn idle<'paths>(patterns: &[&str], paths: impl Iterator<Item = &'paths str>) -> Vec<String> {
    let paths: Vec<&str> = paths.collect();
    patterns
        .iter()
        .filter(|pattern| !paths.iter().any(|path| matches(pattern, path)))
        .map(|pattern| match closest(pattern, paths.iter().copied()) {
            Some(path) => format!("`{pattern}` (did you mean `{path}`?)"),
            None => format!("`{pattern}`"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{idle, matches};
    use rstest::rstest;

    #[rstest]
    #[case("layers.0.weight", "layers.0.weight", true)]
    #[case("layers.0.weight", "layers.0.weights", false)]
    #[case("layers.*.lora_b", "layers.11.attention.q.lora_b", true)]
    #[case("layers.*.lora_b", "layers.11.attention.q.lora_a", false)]
    #[case("*", "anything", true)]
    #[case("*.weight", "weight", false)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*b*c", "a-c-b", false)]
    // A text is not used twice.
    #[case("ab*ba", "aba", false)]
    #[case("", "", true)]
    #[case("", "a", false)]
    fn a_star_stands_for_any_text(#[case] pattern: &str, #[case] path: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, path), expected);
    }

    #[test]
    fn a_pattern_of_nothing_is_named_with_what_was_meant() {
        let paths = ["head.weight", "layers.0.lora_b"];
        assert_eq!(
            idle(&["layers.0.lora_B", "layers.*", "zzz"], paths.into_iter()),
            ["`layers.0.lora_B` (did you mean `layers.0.lora_b`?)", "`zzz`"]
        );
    }
}
