//! Text on one line, for a terminal, Markdown or a page.

use crate::report::{markup_of, printable};

/// Text in an element or an attribute; what could steer a page, or what XML does not allow, is left out.
pub(super) fn escaped(text: &str) -> String {
    markup_of(&on_one_line(text))
}

/// Text without what could steer a terminal or a page.
pub(super) fn on_one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\t', '\r'], " "))
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
