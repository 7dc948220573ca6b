//! Tokens to text, one token at a time.
//!
//! A token's text depends on the tokens before it: a character may take several tokens, and some decoders drop the space of
//! the first token only. So a window of the last tokens is decoded anew with each, and what it adds to the window's text is
//! handed on, the replacement characters at its end excepted: they may be the beginning of a character.
//!
//! The pieces make up the text of all tokens decoded at once, with one exception. Where characters are written as byte
//! tokens (`<0xE2>`), the decoder of the `tokenizers` library turns a whole run of them into replacement characters if any
//! part of it is wrong; the characters that were complete before stay as they were handed on.

/// What stands for bytes that are no character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Tokens that may lack the last byte of a character, and replacement characters they may appear as.
const MOST_PENDING: usize = 3;

/// Tokens to decode before the window is cut.
const WINDOW: usize = 16;

/// Tokens to keep at a cut, enough for the beginning of a character after one that was cut apart.
const KEPT: usize = 8;

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct IncrementalDecoder {
    window: Vec<u32>,
    /// The window's text.
    text: String,
    /// How that text begins as far as it was handed on.
    shown: String,
}

impl IncrementalDecoder {
    /// Takes a token and returns the text that is certain by now. `decode` makes text of tokens.
    ///
    /// # Errors
    /// What `decode` says.
    pub fn push<E>(&mut self, token: u32, decode: impl Fn(&[u32]) -> Result<String, E>) -> Result<String, E> {
        self.window.push(token);
        let text = decode(&self.window)?;
        if text == self.text && is_silent(token, &decode)? {
            self.window.pop();
            return Ok(String::new());
        }
        let mut piece = String::new();
        if text.starts_with(&self.shown) {
            self.text = text;
        } else {
            // The token changes what was handed on already. It has to begin anew, and what was pending is final.
            piece = self.finish();
            self.window = vec![token];
            self.text = decode(&self.window)?;
        }
        piece.push_str(&self.show(stable_length(&self.text)));
        if self.window.len() > WINDOW {
            self.cut(&decode)?;
        }
        Ok(piece)
    }

    /// The rest of the text; the decoder is then as new.
    pub fn finish(&mut self) -> String {
        let rest = self.show(self.text.len());
        *self = Self::default();
        rest
    }

    /// Hands the text on up to `length`.
    fn show(&mut self, length: usize) -> String {
        let piece = self.text.get(self.shown.len()..length).unwrap_or_default().to_owned();
        self.shown.push_str(&piece);
        piece
    }

    /// Keeps the last tokens only, if they give the end of the window's text by themselves: a cut through a character leaves
    /// replacement characters before it, and one through a run of byte tokens may leave nothing else.
    fn cut<E>(&mut self, decode: impl Fn(&[u32]) -> Result<String, E>) -> Result<(), E> {
        let first = self.window.len() - KEPT;
        let text = decode(&self.window[first..])?;
        let whole_characters = text.trim_start_matches(REPLACEMENT);
        let common = if self.text.ends_with(&text) {
            text.len()
        } else if self.text.ends_with(whole_characters) {
            whole_characters.len()
        } else {
            0
        };
        let pending = self.text.len() - self.shown.len();
        if common == 0 || common < pending {
            return Ok(());
        }
        self.shown = text[..text.len() - pending].to_owned();
        self.text = text;
        self.window.drain(..first);
        Ok(())
    }
}

/// Whether a token has no text anywhere, as special tokens that are skipped. A token that is only a space may have none at
/// the beginning, but two of them do.
fn is_silent<E>(token: u32, decode: impl Fn(&[u32]) -> Result<String, E>) -> Result<bool, E> {
    Ok(decode(&[token])?.is_empty() && decode(&[token, token])?.is_empty())
}

/// The length of `text` without the replacement characters at its end that may yet become something else.
fn stable_length(text: &str) -> usize {
    let pending = text
        .chars()
        .rev()
        .take(MOST_PENDING)
        .take_while(|last| *last == REPLACEMENT);
    text.len() - pending.map(char::len_utf8).sum::<usize>()
}
