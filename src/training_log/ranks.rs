//! What each process of a training recorded: a folder with a file of JSON lines for every rank.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::LogError;
use crate::counts::beyond_counting;
use crate::evidence::{RankUpdate, RanksEvidence, RanksUpdate};

/// Longest file that is read: some hundred thousand updates.
const LONGEST: u64 = 1 << 30;

/// One line of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    /// The first one: who writes, and a checksum of the trained values before any update.
    Begin { rank: usize, size: usize, parameters: u32 },
    /// What the process did in an update: a [`RankUpdate`] with the number of the update, counted from 1, as `update`.
    Update(Map<String, Value>),
}

/// What one process recorded.
struct Records {
    size: usize,
    start: u32,
    updates: BTreeMap<usize, RankUpdate>,
}

/// Reads the files `rank-0.jsonl`, `rank-1.jsonl` and so on of `folder`.
///
/// Updates that not every process recorded are left out: whoever is ended first has recorded fewer. The end of a file may be half a
/// line.
///
/// # Errors
/// A file is absent or broken, or the files are of different runs.
pub fn read(folder: &Path) -> Result<RanksEvidence, LogError> {
    let first = records(&file(folder, 0), 0)?;
    let size = first.size;
    let recorded_first: Vec<usize> = first.updates.keys().copied().collect();
    let mut all = vec![first];
    for rank in 1..size {
        let path = file(folder, rank);
        let records = records(&path, rank)?;
        if records.size != size {
            let found = format!("{} ranks, and {size} by the file of rank 0", records.size);
            return Err(LogError::Broken { path, found });
        }
        all.push(records);
    }
    let start = all.iter().map(|records| records.start).collect();
    let mut updates = Vec::new();
    for update in recorded_first {
        let did: Option<Vec<RankUpdate>> = all.iter_mut().map(|rank| rank.updates.remove(&update)).collect();
        if let Some(ranks) = did {
            updates.push(RanksUpdate {
                update,
                rows: ranks.iter().map(|rank| rank.rows.len()).sum(),
                ranks,
            });
        }
    }
    Ok(RanksEvidence {
        size,
        start,
        updates,
        lost: None,
    })
}

/// The file of a rank in `folder`.
fn file(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.jsonl"))
}

fn records(path: &Path, rank: usize) -> Result<Records, LogError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => LogError::NoRecords { path: path.to_owned() },
        _ => LogError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let broken = |found: String| LogError::Broken {
        path: path.to_owned(),
        found,
    };
    let metadata = path.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(broken(format!("no regular file of at most {LONGEST} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // Only a whole line ends with a line break.
    let mut lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .enumerate();
    let at = |number: usize, found: String| broken(format!("line {}: {found}", number + 1));
    let parsed = |number: usize, line: &str| -> Result<Line, LogError> {
        let value: Value = serde_json::from_str(line).map_err(|error| at(number, error.to_string()))?;
        match beyond_counting(&value) {
            Some(found) => Err(at(number, found)),
            None => serde_json::from_value(value).map_err(|error| at(number, error.to_string())),
        }
    };
    let (size, start) = match lines.next().map(|(number, line)| parsed(number, line)).transpose()? {
        Some(Line::Begin {
            rank: found,
            size,
            parameters,
        }) if found == rank && rank < size => (size, parameters),
        Some(Line::Begin { rank: found, size, .. }) => {
            return Err(broken(format!("rank {found} of {size} in the file of rank {rank}")));
        }
        Some(Line::Update(_)) | None => return Err(broken("no line `begin` before all others".to_owned())),
    };
    let mut updates = BTreeMap::new();
    for (number, line) in lines {
        let Line::Update(mut fields) = parsed(number, line)? else {
            return Err(at(number, "a second line `begin`".to_owned()));
        };
        let update = fields
            .shift_remove("update")
            .and_then(|update| usize::try_from(update.as_u64()?).ok())
            .ok_or_else(|| at(number, "no number of the update".to_owned()))?;
        let did = serde_json::from_value(fields.into()).map_err(|error| at(number, error.to_string()))?;
        if updates.insert(update, did).is_some() {
            return Err(at(number, format!("update {update} a second time")));
        }
    }
    Ok(Records { size, start, updates })
}
