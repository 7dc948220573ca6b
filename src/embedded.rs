//! The tiny model and data that the program carries (`scripts/embedded` makes them).

use std::path::{Path, PathBuf};

use crate::temporary_folder::TemporaryFolder;

/// Two rows in a voice that the tiny model does not have.
pub const MINIMAL_DATA: &str = include_str!("../fixtures/embedded/minimal/train.jsonl");

/// Prompts whose answers the tiny model knows.
pub const PROMPTS: &str = include_str!("../fixtures/embedded/prompts.txt");

macro_rules! model_files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../fixtures/embedded/model/", $name)).as_slice())),+]
    };
}

/// The model's files by name.
pub const MODEL: [(&str, &[u8]); 5] = model_files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Writes the tiny model to the folder `target`, which is made where it is not there.
///
/// # Errors
/// The system refuses.
pub fn write_model(target: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    for (name, contents) in MODEL {
        std::fs::write(target.join(name), contents)?;
    }
    Ok(())
}

/// Writes the tiny model to a folder that is removed when the returned guard is dropped.
///
/// # Errors
/// The system refuses.
pub fn unpack_model() -> std::io::Result<(TemporaryFolder, PathBuf)> {
    let folder = TemporaryFolder::new()?;
    write_model(folder.path())?;
    let path = folder.path().to_owned();
    Ok((folder, path))
}
