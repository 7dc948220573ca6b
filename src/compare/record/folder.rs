//! The folder of a comparison: `results/YYYYMMDD_HHMMSS/`.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use chrono::SecondsFormat;
use serde::Serialize;

use super::tables::{memory_csv, requests_csv};
use super::{MemorySample, RECORD_SCHEMA_VERSION, Record, RequestRecord, TestKey, TestRecord};
use crate::atomic_write::write_file;
use crate::time_stamp::utc_now;

/// The [`Record`].
pub(super) const RECORD_FILE: &str = "test_results.json";
/// Folder of samples and requests.
const METRICS_FOLDER: &str = "metrics";
/// Folder of what servers print.
const LOGS_FOLDER: &str = "logs";
/// What happened, line by line.
const LOG_FILE: &str = "mlx_gguf_testing.log";
/// Folders that may be begun within one second.
const MOST_IN_A_SECOND: usize = 100;

/// The folder of one comparison. Whatever is written there appears whole or not at all, except for lines of the log.
#[derive(Debug, Clone)]
pub struct ResultsFolder {
    path: PathBuf,
}

/// Requests of a test as a file of their own.
#[derive(Serialize)]
struct RequestsFile<'test> {
    schema_version: u32,
    key: &'test TestKey,
    requests: &'test [RequestRecord],
}

/// Samples of memory of a test as a file of their own.
#[derive(Serialize)]
struct MemoryFile<'test> {
    schema_version: u32,
    key: &'test TestKey,
    samples: &'test [MemorySample],
}

impl ResultsFolder {
    /// A folder that is named after the time in UTC, under `parent`, which is made where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(parent: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let name = utc_now().format("%Y%m%d_%H%M%S").to_string();
        for number in 1..=MOST_IN_A_SECOND {
            let name = match number {
                1 => name.clone(),
                _ => format!("{name}_{number}"),
            };
            let path = parent.join(name);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    std::fs::create_dir(path.join(METRICS_FOLDER))?;
                    std::fs::create_dir(path.join(LOGS_FOLDER))?;
                    return Ok(Self { path });
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// A folder that is there already.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The [`Record`]'s file.
    pub fn record_file(&self) -> PathBuf {
        self.path.join(RECORD_FILE)
    }

    /// Folder for what the servers of a test print.
    pub fn logs(&self, key: &TestKey) -> PathBuf {
        self.path.join(LOGS_FOLDER).join(key.file_name())
    }

    /// Folder for what servers are started with, one for all tests.
    pub fn scripts(&self) -> PathBuf {
        self.path.join(LOGS_FOLDER)
    }

    /// The samples of a test.
    pub(super) fn memory_file(&self, key: &TestKey) -> PathBuf {
        self.metrics_file(key, "memory.json")
    }

    fn metrics_file(&self, key: &TestKey, extension: &str) -> PathBuf {
        self.path
            .join(METRICS_FOLDER)
            .join(format!("{}.{extension}", key.file_name()))
    }

    /// Writes the record in place of the one before.
    ///
    /// # Errors
    /// It cannot be written; the one before stays as it is.
    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(record)?;
        text.push(b'\n');
        write_file(&self.record_file(), &text)
    }

    /// Writes every request, piece and sample of a test as JSON and CSV.
    ///
    /// # Errors
    /// One of the files cannot be written.
    pub fn write_metrics(&self, test: &TestRecord, samples: &[MemorySample]) -> io::Result<()> {
        let key = &test.key;
        let requests = RequestsFile {
            schema_version: RECORD_SCHEMA_VERSION,
            key,
            requests: &test.requests,
        };
        write_file(
            &self.metrics_file(key, "requests.json"),
            &serde_json::to_vec(&requests)?,
        )?;
        write_file(&self.metrics_file(key, "requests.csv"), &requests_csv(&test.requests)?)?;
        if test.memory.is_none() {
            return Ok(());
        }
        let memory = MemoryFile {
            schema_version: RECORD_SCHEMA_VERSION,
            key,
            samples,
        };
        write_file(&self.metrics_file(key, "memory.json"), &serde_json::to_vec(&memory)?)?;
        write_file(&self.metrics_file(key, "memory.csv"), &memory_csv(samples)?)
    }

    /// Adds a line with the time to the log.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn log(&self, line: &str) -> io::Result<()> {
        let path = self.path.join(LOG_FILE);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // A line of several lines would pass for several events.
        let line = line.replace('\n', "\n    ");
        file.write_all(format!("{} {line}\n", utc_now().to_rfc3339_opts(SecondsFormat::Millis, true)).as_bytes())
    }
}
