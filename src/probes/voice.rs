//! The voice score: how much one text sounds like others.
//!
//! The mean of two cosine similarities, of counts of character trigrams and of counts of function words. Both are cheap,
//! deterministic classics of authorship attribution (Stamatatos 2009, "A survey of modern authorship attribution
//! methods"). Limits: function words are English; texts under some hundred words give an unsteady score; topic leaks into
//! trigrams. The score informs a reader; no rule decides by it.

use std::collections::BTreeMap;

/// English words that carry style rather than topic.
const FUNCTION_WORDS: [&str; 60] = [
    "a", "about", "all", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "did", "do",
    "for", "from", "had", "has", "have", "he", "her", "his", "i", "if", "in", "is", "it", "its", "me", "my", "no",
    "not", "of", "on", "or", "our", "she", "so", "that", "the", "their", "them", "then", "there", "they", "this", "to",
    "was", "we", "were", "what", "when", "which", "will", "with", "would", "you",
];

/// Characters in a gram.
const GRAM: usize = 3;

/// Similarity of `text` to `references` together, 0 to 1; `None` when either side has no words.
pub fn score(text: &str, references: &[&str]) -> Option<f64> {
    let style = Style::of(&[text]);
    let reference = Style::of(references);
    if style.grams.is_empty() || reference.grams.is_empty() {
        return None;
    }
    Some(f64::midpoint(
        cosine(&style.grams, &reference.grams),
        cosine(&style.function_words, &reference.function_words),
    ))
}

#[derive(Default)]
struct Style {
    grams: BTreeMap<Vec<char>, f64>,
    function_words: BTreeMap<Vec<char>, f64>,
}

impl Style {
    fn of(texts: &[&str]) -> Self {
        let mut style = Self::default();
        for text in texts {
            let words: Vec<String> = text
                .split(|character: char| !character.is_alphanumeric() && character != '\'')
                .filter(|word| !word.is_empty())
                .map(str::to_lowercase)
                .collect();
            for word in &words {
                if FUNCTION_WORDS.contains(&word.as_str()) {
                    *style.function_words.entry(word.chars().collect()).or_insert(0.0) += 1.0;
                }
            }
            let characters: Vec<char> = words.join(" ").chars().collect();
            for gram in characters.windows(GRAM) {
                *style.grams.entry(gram.to_vec()).or_insert(0.0) += 1.0;
            }
        }
        style
    }
}

/// Cosine of two count vectors; 0 when either is empty.
fn cosine(left: &BTreeMap<Vec<char>, f64>, right: &BTreeMap<Vec<char>, f64>) -> f64 {
    let norm = |counts: &BTreeMap<Vec<char>, f64>| counts.values().map(|count| count * count).sum::<f64>().sqrt();
    let product: f64 = left
        .iter()
        .filter_map(|(key, count)| Some(count * right.get(key)?))
        .sum();
    let norms = norm(left) * norm(right);
    if norms == 0.0 { 0.0 } else { (product / norms).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::score;
    use approx::assert_relative_eq;

    #[test]
    fn a_text_is_exactly_like_itself() {
        let text = "The keeper has a small boat and it is blue.";
        assert_relative_eq!(score(text, &[text]).unwrap(), 1.0, epsilon = 1e-12);
    }

    #[test]
    fn texts_without_a_common_trigram_or_function_word_score_zero() {
        assert_relative_eq!(score("xyz xyz", &["the and of"]).unwrap(), 0.0);
    }

    #[test]
    fn a_text_without_words_has_no_score() {
        assert_eq!(score("!!! ...", &["the keeper"]), None);
        assert_eq!(score("the keeper", &[]), None);
    }

    #[test]
    fn the_own_voice_scores_above_a_foreign_one() {
        let pirate = [
            "Ahoy, the boat is blue, says the old sailor.",
            "Ahoy, we were there, says the old sailor.",
        ];
        let own = score("Ahoy, the gull is grey, says the old sailor.", &pirate).unwrap();
        let foreign = score("Photosynthesis converts light energy into chemical energy.", &pirate).unwrap();
        assert!(own > foreign + 0.3, "own {own}, foreign {foreign}");
    }
}
