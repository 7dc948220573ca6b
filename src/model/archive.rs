//! Zip archives of tensors, opened with the checks that a hostile file calls for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::{CompressionMethod, ZipArchive};

use super::WeightFileError;

/// Most entries: above the number of tensors of any model, an entry each.
const MOST_ENTRIES: usize = 1 << 20;
/// Most bytes that one stored byte may unpack to. Weights hardly shrink; a zip bomb grows a thousandfold.
const LARGEST_GROWTH: u64 = 100;
/// Unpacked bytes that no archive is refused for: an adapter that starts at zero shrinks to almost nothing.
const HARMLESS_BYTES: u64 = 1 << 26;

/// An archive whose entries lie apart, are named once, and together do not unpack to more than their file warrants.
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    /// Unpacked bytes of each entry, as its header says.
    sizes: BTreeMap<String, u64>,
    length: u64,
}

impl Archive {
    /// Reads the directory of the archive at `path` and checks it.
    pub(super) fn open(path: &Path) -> Result<Self, WeightFileError> {
        let io_error = |source| WeightFileError::Io {
            path: path.to_owned(),
            source,
        };
        let refused = |found: String| WeightFileError::Archive {
            path: path.to_owned(),
            found,
        };
        let file = File::open(path).map_err(io_error)?;
        let length = file.metadata().map_err(io_error)?.len();
        let mut zip =
            ZipArchive::new(BufReader::new(file)).map_err(|error| refused(format!("no whole zip: {error}")))?;
        if zip.len() > MOST_ENTRIES {
            return Err(refused(format!("{} entries", zip.len())));
        }
        if zip.has_duplicate_names() {
            return Err(refused("two entries of one name".to_owned()));
        }
        let sizes = entry_sizes(&mut zip).map_err(refused)?;
        let unpacked = sizes.values().fold(0_u64, |sum, &size| sum.saturating_add(size));
        if unpacked > HARMLESS_BYTES.max(length.saturating_mul(LARGEST_GROWTH)) {
            return Err(refused(format!(
                "{length} bytes that would unpack to {unpacked}, as a zip bomb does"
            )));
        }
        match zip.has_overlapping_entries() {
            Ok(false) => {}
            Ok(true) => return Err(refused("entries that overlap, as those of a zip bomb do".to_owned())),
            Err(error) => return Err(refused(format!("a broken entry: {error}"))),
        }
        // Names and sizes stand in two places, of which other programs read the one or the other.
        zip.validate_header_consistency()
            .map_err(|error| refused(format!("a broken entry: {error}")))?;
        Ok(Self {
            path: path.to_owned(),
            zip,
            sizes,
            length,
        })
    }

    /// The names of all entries, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.sizes.keys().map(String::as_str)
    }

    /// Unpacked bytes of the entry `name`, as its header says; `None` when there is none.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.sizes.get(name).copied()
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The first `most` bytes of the entry `name`, or all of a shorter one.
    pub(super) fn read_start(&mut self, name: &str, most: u64) -> Result<Vec<u8>, WeightFileError> {
        let path = self.path.clone();
        let refused = |detail: &dyn std::fmt::Display| WeightFileError::Archive {
            path: path.clone(),
            found: format!("the entry `{name}` cannot be read: {detail}"),
        };
        let entry = self.zip.by_name(name).map_err(|error| refused(&error))?;
        let mut bytes = Vec::new();
        entry
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(|error| refused(&error))?;
        Ok(bytes)
    }

    /// All bytes of the entry `name`, which must be as many as its header says.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, WeightFileError> {
        let expected = self.size(name).unwrap_or(0);
        // One byte more shows an entry that goes on, and lets the checksum be compared at its end.
        let bytes = self.read_start(name, expected.saturating_add(1))?;
        if bytes.len() as u64 == expected {
            Ok(bytes)
        } else {
            Err(self.refused(format!(
                "the entry `{name}` has {} bytes or more where {expected} are declared",
                bytes.len()
            )))
        }
    }

    /// The error that the archive is unusable because of what was `found`.
    pub(super) fn refused(&self, found: String) -> WeightFileError {
        WeightFileError::Archive {
            path: self.path.clone(),
            found,
        }
    }
}

/// The declared sizes by name, or what is wrong with an entry.
fn entry_sizes(zip: &mut ZipArchive<BufReader<File>>) -> Result<BTreeMap<String, u64>, String> {
    let mut sizes = BTreeMap::new();
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .map_err(|error| format!("a broken entry: {error}"))?;
        let name = entry
            .name()
            .map_err(|_| "an entry whose name is no text".to_owned())?
            .into_owned();
        let is_known = matches!(
            entry.compression(),
            CompressionMethod::Stored | CompressionMethod::Deflated
        );
        if entry.encrypted() || !is_known {
            return Err(format!(
                "the entry `{name}`, which is encrypted or packed in an unknown way"
            ));
        }
        if entry.compression() == CompressionMethod::Stored && entry.size() != entry.compressed_size() {
            return Err(format!("the entry `{name}` with two sizes"));
        }
        sizes.insert(name, entry.size());
    }
    Ok(sizes)
}
