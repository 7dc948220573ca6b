//! Text as markup that is XML and HTML at once.

/// Text in an element or an attribute, on one line; what could steer a page, or what XML does not allow, is left out.
pub(super) fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\'' => result.push_str("&#39;"),
            '\n' | '\t' | '\r' => result.push(' '),
            _ if steers(character) => {}
            _ => result.push(character),
        }
    }
    result
}

/// Text for a terminal or for Markdown, on one line, without what could steer either.
pub(super) fn on_one_line(text: &str) -> String {
    let spaced = text.chars().map(|character| match character {
        '\n' | '\t' | '\r' => ' ',
        other => other,
    });
    spaced.filter(|&character| !steers(character)).collect()
}

/// Whether the character is no text of its own: controls, what turns the direction of other text round, breaks of lines and
/// pages, and what XML does not allow.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}'
        )
}

#[cfg(test)]
mod tests {
    use super::{escaped, on_one_line};

    #[test]
    fn text_cannot_become_markup_nor_steer_the_page() {
        assert_eq!(
            escaped("<b a='1'>\"&\"</b>\u{202e}\u{0}\n"),
            "&lt;b a=&#39;1&#39;&gt;&quot;&amp;&quot;&lt;/b&gt; "
        );
        assert_eq!(on_one_line("red \u{1b}[31m\r\n<b>"), "red [31m  <b>");
    }
}
