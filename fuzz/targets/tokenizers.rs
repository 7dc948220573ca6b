//! The files of a tokenizer.

use mlx_diagnose::model::{Message, Tokenizer};

use super::Verdict;
use super::scratch::{fixture_bytes, folder};

/// A text with what tokenizers trip over: special tokens, accents, characters of several bytes, white space.
const TEXT: &str = "Where does  Tom live?<|im_end|>\n e\u{301} \u{65e5}\u{672c} \u{1f600}\t123";

/// `tokenizer.json`, with the settings of a tiny model.
pub(super) fn definition(bytes: &[u8]) -> Verdict {
    let settings = fixture_bytes("golden/tiny/llama/tokenizer_config.json");
    used(bytes, &settings)
}

/// `tokenizer_config.json`, with the definition of a tiny model.
pub(super) fn settings(bytes: &[u8]) -> Verdict {
    let definition = fixture_bytes("golden/tiny/llama/tokenizer.json");
    used(&definition, bytes)
}

fn used(definition: &[u8], settings: &[u8]) -> Verdict {
    let folder = folder(&[("tokenizer.json", definition), ("tokenizer_config.json", settings)]);
    let tokenizer = match Tokenizer::from_folder(folder.path()) {
        Ok(tokenizer) => tokenizer,
        refused @ Err(_) => return Verdict::of(refused),
    };
    let used = tokenizer.encode(TEXT, true).and_then(|ids| {
        tokenizer.encode_with_bytes(TEXT)?;
        tokenizer.decode(&ids, true)?;
        tokenizer.definition()?;
        if tokenizer.chat_template().is_some() {
            tokenizer.encode_chat(&[Message::new("user", TEXT)], None, true)?;
        }
        Ok(())
    });
    for id in tokenizer.added_ids() {
        tokenizer.token_text(id);
    }
    Verdict::of(used)
}
