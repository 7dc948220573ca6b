//! Text broken into lines of a width.

/// Breaks at white space; a word longer than the width gets a line of its own.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace().map(printable) {
        let needed = length(&word);
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&word),
            Some(line) if length(line) + 1 + needed <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// The text without what could steer a terminal or a page.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|&character| !steers(character)).collect()
}

/// Whether the character is no text of its own: controls, what turns the direction of other text round, and what XML does
/// not allow.
///
/// The marks of direction stay, since text in Arabic and Hebrew needs them and they turn nothing but themselves.
pub(super) fn steers(character: char) -> bool {
    let overrides_direction = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(character, '\u{2028}' | '\u{2029}');
    let is_no_character = matches!(character, '\u{fffe}' | '\u{ffff}');
    character.is_control() || overrides_direction || breaks_lines || is_no_character
}

/// Breaks a command before its options, with the backslash that lets it be pasted whole.
pub(super) fn wrapped_command(command: &str, width: usize) -> Vec<String> {
    const CONTINUATION: &str = " \\";
    let mut lines = vec![String::new()];
    for (index, part) in printable(command).split(" --").enumerate() {
        let part = if index == 0 {
            part.to_owned()
        } else {
            format!(" --{part}")
        };
        match lines.last_mut() {
            Some(line) if line.is_empty() || length(line) + length(&part) + CONTINUATION.len() <= width => {
                line.push_str(&part);
            }
            Some(line) => {
                line.push_str(CONTINUATION);
                lines.push(format!(" {part}"));
            }
            None => lines.push(part),
        }
    }
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}
