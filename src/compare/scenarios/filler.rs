//! Text of any length that says nothing twice.

/// Sentences with a place for a number; read in turn, each with its own number.
const SENTENCES: [&str; 6] = [
    "Record {}: the keeper of the lighthouse counted the ships that passed before noon and wrote their names down.",
    "Record {}: a storm from the west broke two windows, and the carpenter of the village came to mend them.",
    "Record {}: the boat with flour and oil was late, so that bread had to be shared until the evening.",
    "Record {}: visitors from the mainland climbed the stairs and asked how far the light can be seen.",
    "Record {}: the lamp was cleaned, its lens was turned by hand, and the clockwork got new oil.",
    "Record {}: fog lay over the water for the whole day, and the horn was sounded every minute.",
];

/// What is asked about the text.
const QUESTION: &str = "Summarise these records in a few sentences.";

/// A prompt with so many words of records.
pub fn prompt(words: usize) -> String {
    let sentences = SENTENCES.iter().cycle().enumerate();
    let records = sentences.map(|(number, sentence)| sentence.replace("{}", &(number + 1).to_string()));
    let mut text = String::new();
    let mut left = words;
    for record in records {
        if left == 0 {
            break;
        }
        for word in record.split(' ').take(left) {
            text.push_str(word);
            text.push(' ');
            left -= 1;
        }
    }
    text + QUESTION
}

/// The longest prompt that has at most `tokens` tokens by `count`, which grows with the prompt by a token at least for each word.
///
/// # Errors
/// `count` fails.
pub fn longest_prompt<E>(tokens: usize, mut count: impl FnMut(&str) -> Result<usize, E>) -> Result<String, E> {
    let (mut fits, mut too_many) = (0, tokens + 1);
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        if count(&prompt(middle))? <= tokens {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    Ok(prompt(fits))
}

#[cfg(test)]
mod tests {
    use super::{longest_prompt, prompt};

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn a_prompt_is_as_long_as_it_is_asked_to_be() {
        for tokens in [64, 500, 4000] {
            let found = longest_prompt(tokens, |text| Ok::<usize, String>(words(text))).unwrap();
            assert_eq!(words(&found), tokens);
            let by_bytes = longest_prompt(tokens, |text| Ok::<usize, String>(text.len())).unwrap();
            assert!(
                by_bytes.len() <= tokens && by_bytes.len() + 20 > tokens,
                "{} bytes",
                by_bytes.len()
            );
        }
    }

    #[test]
    fn no_record_is_like_another() {
        let text = prompt(1000);
        let records: Vec<&str> = text.split("Record ").skip(1).collect();
        let different: std::collections::BTreeSet<&str> = records.iter().copied().collect();
        assert_eq!((records.len() > 40, different.len()), (true, records.len()));
    }

    #[test]
    fn a_tokenizer_that_fails_is_told() {
        let failing = |_: &str| Err("no such file".to_owned());
        assert_eq!(longest_prompt(100, failing), Err("no such file".to_owned()));
    }
}
