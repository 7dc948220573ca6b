//! What another program said, short enough to be shown.

/// Characters of it that are shown.
const SHOWN: usize = 300;

/// The beginning of a text, on one line and without what steers a terminal.
pub fn beginning(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|character| !character.is_control());
    if line.is_empty() {
        return "nothing".to_owned();
    }
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
