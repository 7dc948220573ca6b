//! A number that tells the files of one model from those of another, without reading all of them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use flate2::Crc;

use super::folder_files::CONFIGURATION;
use super::{CheckpointError, ModelFiles, WeightFileError, WeightSet};

/// Bytes of one part of a file that is read.
const PART: u64 = 64 << 10;
/// Parts that are read of a file; of one that has no more, all.
const PARTS: u64 = 256;

impl ModelFiles {
    /// A checksum (CRC-32) of the model's configuration and weight files: of the name and length of each, of its first
    /// 64 KiB with the names and shapes of its tensors, and of 255 parts of 64 KiB more at even distances.
    ///
    /// Files up to 16 MiB are read whole. Training and conversion change values everywhere and do not get past it; a few
    /// values that somebody changes by hand in a larger file may.
    ///
    /// # Errors
    /// A file is absent or cannot be read.
    pub fn fingerprint(&self) -> Result<u32, CheckpointError> {
        let files = match self {
            Self::Folder(folder) => {
                let weights = WeightSet::of_folder(folder)?;
                [vec![folder.join(CONFIGURATION)], weights.files].concat()
            }
            Self::Gguf(header) => vec![header.path.clone()],
        };
        let mut checksum = Crc::new();
        for path in files {
            add_file(&path, &mut checksum).map_err(|source| WeightFileError::Io { path, source })?;
        }
        Ok(checksum.sum())
    }
}

fn add_file(path: &Path, checksum: &mut Crc) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let name = path.file_name().unwrap_or(path.as_os_str());
    checksum.update(name.as_encoded_bytes());
    checksum.update(&length.to_le_bytes());
    let parts = length.div_ceil(PART).min(PARTS);
    let mut part = Vec::new();
    for number in 0..parts {
        // The first part begins the file, and the last one ends it.
        let start = match parts - 1 {
            0 => 0,
            last => u128::from(number) * u128::from(length.saturating_sub(PART)) / u128::from(last),
        };
        file.seek(SeekFrom::Start(start as u64))?;
        part.clear();
        (&mut file).take(PART).read_to_end(&mut part)?;
        checksum.update(&part);
    }
    Ok(())
}
