//! The tiny model and data that the program carries (`scripts/embedded` makes them).

use std::path::PathBuf;

use tempfile::TempDir;

/// Two rows in a voice that the tiny model does not have.
pub const MINIMAL_DATA: &str = include_str!("../../fixtures/embedded/minimal/train.jsonl");

/// Prompts whose answers the tiny model knows.
pub const PROMPTS: &str = include_str!("../../fixtures/embedded/prompts.txt");

macro_rules! model_files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../fixtures/embedded/model/", $name)).as_slice())),+]
    };
}

/// The model's files by name.
const MODEL: [(&str, &[u8]); 5] = model_files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Writes the tiny model to a folder that is removed when the returned guard is dropped.
pub fn unpack_model() -> std::io::Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    for (name, contents) in MODEL {
        std::fs::write(folder.path().join(name), contents)?;
    }
    let path = folder.path().to_owned();
    Ok((folder, path))
}
