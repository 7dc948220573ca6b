//! Which mutant is on: of the process that is asked, by its environment.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

struct Settings {
    active: Option<usize>,
    record: Option<std::ffi::OsString>,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static REACHED: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];

/// Whether `MUTANT` is this number. Notes the first time that each number is asked for in the file `MUTANT_RECORD`.
pub fn is_on(number: usize) -> bool {
    let settings = SETTINGS.get_or_init(|| Settings {
        active: std::env::var("MUTANT").ok().and_then(|number| number.parse().ok()),
        record: std::env::var_os("MUTANT_RECORD"),
    });
    if let Some(file) = &settings.record
        && !REACHED[number].swap(true, Ordering::Relaxed)
    {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        // One write, so that lines of several processes stay whole.
        let noted = opened.and_then(|mut file| file.write_all(format!("{number}\n").as_bytes()));
        if noted.is_err() {
            std::process::abort();
        }
    }
    settings.active == Some(number)
}
