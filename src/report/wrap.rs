//! Text broken into lines of a width.

/// Breaks at white space; a word longer than the width gets a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
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

/// The text without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
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
