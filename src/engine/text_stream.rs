//! The answer of one request as text, while its tokens come.

use super::incremental_decoder::IncrementalDecoder;
use super::stop_strings::StopStrings;

/// Gives pieces of text that together are the answer up to its first stop string. No piece ends inside a character or holds
/// any part of a stop string, and a token costs the same however long the answer is.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    decoder: IncrementalDecoder,
    stops: StopStrings,
}

impl TextStream {
    /// An empty stream that ends at the first of `stop_strings`, none of which may be empty.
    pub fn new(stop_strings: Vec<String>) -> Self {
        Self {
            decoder: IncrementalDecoder::default(),
            stops: StopStrings::new(stop_strings),
        }
    }

    /// Takes the next token and returns the text that can be shown by now, often none. `decode` makes text of tokens, such
    /// as [`crate::model::Tokenizer::decode`].
    ///
    /// # Errors
    /// What `decode` says.
    pub fn push<E>(&mut self, token: u32, decode: impl Fn(&[u32]) -> Result<String, E>) -> Result<String, E> {
        if self.has_stopped() {
            return Ok(String::new());
        }
        let piece = self.decoder.push(token, decode)?;
        Ok(self.stops.push(&piece))
    }

    /// The rest of the text when no more tokens come: what was held back, and U+FFFD for a character that was not
    /// completed.
    pub fn finish(&mut self) -> String {
        let rest = self.decoder.finish();
        let mut text = self.stops.push(&rest);
        if !self.has_stopped() {
            text.push_str(&self.stops.finish());
        }
        text
    }

    /// Whether a stop string was met. Tokens after it give no text.
    pub fn has_stopped(&self) -> bool {
        self.stops.has_stopped()
    }
}
