//! Why a GGUF file is refused.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::super::problem::Problems;
use super::GgufTensorType;
use crate::evidence::Listing;

/// Why a GGUF file was refused.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file could not be opened or read.
    #[error("GGUF file `{}` cannot be read\n  found: {source}\n  hint: check that the file exists and can be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not begin with the magic bytes.
    #[error("`{}` is not a GGUF file\n  found: it begins with {found}\n  expected: it begins with `GGUF`", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// The first bytes, as text.
        found: String,
    },
    /// The file's version is not one that is read.
    #[error("GGUF file `{}` has an unsupported version\n  found: {found}\n  expected: version 2 or 3, little-endian\n  hint: convert the model again with a current llama.cpp", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// The file ends inside its header.
    #[error("GGUF file `{}` is truncated: it ends inside {inside}\n  found: {available} bytes left at byte {position}\n  expected: {needed} bytes\n  hint: download the file again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        inside: String,
        /// Where it began, in bytes from the start of the file.
        position: u64,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// The header claims something impossible.
    #[error("GGUF file `{}` has an impossible header\n{problems}\n  hint: download the file again", path.display())]
    ImpossibleHeader {
        /// The file.
        path: PathBuf,
        /// What is impossible.
        problems: Problems,
    },
    /// Tensors of the table do not fit the file.
    #[error("GGUF file `{}` does not hold all the tensors of its table\n{problems}\n  hint: download the file again", path.display())]
    ImpossibleTensors {
        /// The file.
        path: PathBuf,
        /// One entry per tensor.
        problems: Problems,
    },
    /// Tensors are packed in formats that are not read.
    #[error("GGUF file `{}` packs tensors in unsupported formats\n  found: {formats}, in {tensors}\n  expected: {supported}\n  hint: use another packing of the same model, for example Q4_K_M, Q8_0 or F16", path.display(), supported = GgufTensorType::names())]
    UnsupportedTypes {
        /// The file.
        path: PathBuf,
        /// The formats with the number of tensors each, sorted by name.
        formats: String,
        /// The tensors.
        tensors: Listing,
    },
    /// Tensors have names that belong to none of the supported architectures.
    #[error("GGUF file `{}` has unknown tensors\n  found: {names}\n  expected: the tensors of a llama, qwen2 or qwen3 model\n  hint: use the folder of the model instead", path.display())]
    UnknownTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Listing,
    },
    /// A metadata value is absent or has the wrong type.
    #[error("GGUF file `{}` has unusable metadata\n{problems}\n  hint: convert the model again with a current llama.cpp", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// One entry per key.
        problems: Problems,
    },
}
