//! Text of tokens that a server tells as its vocabulary writes them.

/// Stands for a space in vocabularies of `SentencePiece`.
const SENTENCE_PIECE_SPACE: char = '\u{2581}';

/// The text of a token as a vocabulary writes it: of `SentencePiece`, or of byte-level BPE, where each byte is one printable
/// character. One that is neither stays as it is; so does a part of a character, which has no text.
///
/// Source of the table: `bytes_to_unicode` of GPT-2, <https://github.com/openai/gpt-2/blob/master/src/encoder.py>.
pub(super) fn token_text(written: &str) -> String {
    if written.contains(SENTENCE_PIECE_SPACE) {
        return written.replace(SENTENCE_PIECE_SPACE, " ");
    }
    let bytes: Option<Vec<u8>> = written.chars().map(byte_of).collect();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.unwrap_or_else(|| written.to_owned())
}

/// The byte that a character of byte-level BPE stands for.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        // Printable characters of Latin-1 stand for themselves.
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        // The others follow each other from U+0100 on: 0x00 to 0x20, 0x7f to 0xa0, 0xad.
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::token_text;

    #[test]
    fn tokens_of_both_kinds_are_read() {
        let cases = [
            ("\u{120}Paris", " Paris"),
            ("\u{10a}", "\n"),
            ("\u{c3}\u{a9}t\u{c3}\u{a9}", "\u{e9}t\u{e9}"),
            ("\u{2581}the\u{2581}", " the "),
            ("<|im_end|>", "<|im_end|>"),
        ];
        for (written, text) in cases {
            assert_eq!(token_text(written), text);
        }
    }

    #[test]
    fn a_part_of_a_character_stays_as_it_is() {
        assert_eq!(token_text("\u{c3}"), "\u{c3}");
        assert_eq!(token_text("\u{65e5}"), "\u{65e5}");
    }

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let mut bytes: Vec<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(super::byte_of)
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
    }
}
