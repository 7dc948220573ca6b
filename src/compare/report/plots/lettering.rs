//! How much room text takes, estimated without a font: a reader's system chooses the font.

/// Shares of the font's size that letters take, rather too wide than too narrow: those of `DejaVu Sans`, which is wide.
const NARROW: f64 = 0.37;
const ORDINARY: f64 = 0.64;
const WIDE: f64 = 1.0;

/// Width of the text at most, in the units of `size`.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(letter).sum::<f64>() * size
}

/// The text as it is where it fits into `room`, else its beginning and its end with an ellipsis between: names of models
/// often differ at their end.
pub(super) fn fitted(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let left = (room - width("…", size)) / size;
    let beginning: String = within(text.chars(), left * 2.0 / 3.0);
    let end: String = within(text.chars().rev(), left / 3.0);
    if beginning.is_empty() {
        return String::new();
    }
    let end: String = end.chars().rev().collect();
    format!("{beginning}…{end}")
}

/// As many letters as fit.
fn within(letters: impl Iterator<Item = char>, room: f64) -> String {
    let mut taken = 0.0;
    letters
        .take_while(|&character| {
            taken += letter(character);
            taken <= room
        })
        .collect()
}

fn letter(character: char) -> f64 {
    match character {
        'i' | 'j' | 'l' | 'I' | 'f' | 't' | 'r' | '.' | ',' | ':' | ';' | '|' | '!' | '\'' | ' ' | '(' | ')' | '/'
        | '-' => NARROW,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => WIDE,
        'A'..='Z' => 0.78,
        _ if character.is_ascii() => ORDINARY,
        _ => WIDE,
    }
}

#[cfg(test)]
mod tests {
    use super::{fitted, width};

    #[test]
    fn a_long_name_keeps_its_beginning_and_its_end() {
        let name = "Meta-Llama-3.3-70B-Instruct-Q6_K".repeat(4);
        let cut = fitted(&name, 12.0, 200.0);
        assert!(width(&cut, 12.0) <= 200.0, "{cut}");
        assert!(cut.starts_with("Meta-Llama-3.3") && cut.ends_with("Q6_K"), "{cut}");
    }

    #[test]
    fn a_short_name_stays_and_no_room_leaves_nothing() {
        assert_eq!(fitted("SmolLM2", 12.0, 200.0), "SmolLM2");
        assert_eq!(fitted("SmolLM2", 12.0, 10.0), "");
    }
}
