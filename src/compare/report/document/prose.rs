//! Text of a report, of which some is code and some is strong.

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::compare::report) enum Span {
    Plain(String),
    /// A name, a command or a path, as it is typed.
    Code(String),
    Strong(String),
}

/// A sentence, or a cell of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::compare::report) struct Prose(pub(in crate::compare::report) Vec<Span>);

impl Prose {
    /// Text in which names stand between backticks; the last backtick of an odd number is a letter.
    pub(super) fn new(text: &str) -> Self {
        let parts: Vec<&str> = text.split('`').collect();
        let is_closed = parts.len() % 2 == 1;
        let mut spans = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            match index % 2 {
                0 => spans.push(Span::Plain((*part).to_owned())),
                _ if is_last && !is_closed => spans.push(Span::Plain(format!("`{part}"))),
                _ => spans.push(Span::Code((*part).to_owned())),
            }
        }
        spans.retain(|span| !matches!(span, Span::Plain(text) | Span::Code(text) if text.is_empty()));
        Self(spans)
    }

    /// Text of others, of which nothing is code.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self(vec![Span::Plain(text.into())])
    }

    /// A name, a command or a path.
    pub(super) fn code(text: impl Into<String>) -> Self {
        Self(vec![Span::Code(text.into())])
    }

    pub(super) fn strong(text: impl Into<String>) -> Self {
        Self(vec![Span::Strong(text.into())])
    }

    /// This text, followed by another.
    #[must_use]
    pub(super) fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Texts with something between them.
    pub(super) fn joined(parts: impl IntoIterator<Item = Self>, between: &str) -> Self {
        let mut all = Self::default();
        for part in parts {
            if !all.0.is_empty() {
                all.0.push(Span::Plain(between.to_owned()));
            }
            all.0.extend(part.0);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{Prose, Span};

    #[test]
    fn what_stands_between_backticks_is_code() {
        let plain = |text: &str| Span::Plain(text.to_owned());
        let code = |text: &str| Span::Code(text.to_owned());
        assert_eq!(
            Prose::new("`llama-server` died after `load`").0,
            [code("llama-server"), plain(" died after "), code("load")]
        );
        assert_eq!(Prose::new("an open ` stays").0, [plain("an open "), plain("` stays")]);
        assert_eq!(Prose::new("").0, []);
    }
}
