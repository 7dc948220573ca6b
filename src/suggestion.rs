//! "Did you mean": the nearest of several names.

/// Similarity below which a suggestion would only confuse (Jaro-Winkler, 0 to 1).
const MINIMUM_SIMILARITY: f64 = 0.7;

/// The name nearest to `given`, when one is near enough.
pub fn closest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(similarity, _)| *similarity >= MINIMUM_SIMILARITY)
        .max_by(|(left, left_name), (right, right_name)| left.total_cmp(right).then(right_name.cmp(left_name)))
        .map(|(_, name)| name)
}

/// The name that `given` becomes by one letter more, less or other, or by two that change places.
pub fn one_slip_away<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|name| strsim::osa_distance(given, name) == 1)
}

#[cfg(test)]
mod tests {
    use super::{closest, one_slip_away};

    #[test]
    fn only_one_slip_is_one_slip() {
        let names = ["input", "tools"];
        for given in ["inputs", "nput", "imput", "inptu"] {
            assert_eq!(one_slip_away(given, names), Some("input"), "{given}");
        }
        for given in ["input", "tokens", "id", "output"] {
            assert_eq!(one_slip_away(given, names), None, "{given}");
        }
    }

    #[test]
    fn a_slip_of_one_letter_is_found() {
        assert_eq!(
            closest("self_attn.q_porj", ["self_attn.q_proj", "mlp.up_proj"]),
            Some("self_attn.q_proj")
        );
    }

    #[test]
    fn an_unlike_name_gets_no_suggestion() {
        assert_eq!(closest("zebra", ["self_attn.q_proj", "mlp.up_proj"]), None);
    }
}
