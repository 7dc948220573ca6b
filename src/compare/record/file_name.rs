//! Names that are safe in names of files.

use super::TestKey;

/// Longest part of a file's name that a user chooses, in bytes; file systems allow 255 for the whole name.
const LONGEST: usize = 100;

/// `name` with everything but ASCII letters, digits, `.`, `_` and `-` as `_`, cut where it is long.
pub fn file_name(name: &str) -> String {
    let safe = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => character,
        _ => '_',
    };
    let mut safe: String = name.chars().map(safe).take(LONGEST).collect();
    // A dot in front hides a file, and a hyphen looks like an option.
    if safe.starts_with(['.', '-']) {
        safe.replace_range(..1, "_");
    }
    safe
}

impl TestKey {
    /// `PAIR-FORMAT-SCENARIO-ROUND`, safe as the name of a file.
    pub fn file_name(&self) -> String {
        let (pair, scenario) = (file_name(&self.pair), file_name(&self.scenario));
        format!("{pair}-{}-{scenario}-{}", self.format.name(), self.round)
    }
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn a_name_never_leaves_its_folder() {
        assert_eq!(file_name("Llama 3.3/70B: Q6_K"), "Llama_3.3_70B__Q6_K");
        assert_eq!(file_name("../../etc"), "_._.._etc");
        assert_eq!(file_name("-rf"), "_rf");
        assert_eq!(file_name(&"ä".repeat(300)).len(), 100);
    }
}
