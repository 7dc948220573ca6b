//! The one way in which a test says that what it needs is not here.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Names a file that gets a line for each skipped test: its name, a tab, and the reason. `scripts/test` sets it, and shows
/// and counts the lines at the end.
const LIST: &str = "MLX_DIAGNOSE_SKIPPED_TESTS";

/// Says why the running test does not go on; the test itself returns.
pub fn because(reason: &str) {
    eprintln!("skipped: {reason}");
    let Some(list) = std::env::var_os(LIST) else {
        return;
    };
    // Each test has a thread of its name.
    let thread = std::thread::current();
    let line = format!("{}\t{reason}\n", thread.name().unwrap_or("a test"));
    // One write, so that lines of processes beside one another stay whole.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "{} cannot be written: {written:?}", list.display());
}
