//! Ctrl-C, pressed until a process has ended.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// As shells report a process that Ctrl-C ended.
pub const EXIT_KILLED_BY_INTERRUPT: i32 = 130;

/// Interrupts `process` until it ends.
pub fn interrupted(process: &mut Child) -> ExitStatus {
    let id = Pid::from_raw(process.id().cast_signed());
    loop {
        // A signal that is still to be delivered takes up another of its kind: it is sent until it was heard twice.
        kill(id, Signal::SIGINT).unwrap();
        std::thread::sleep(Duration::from_micros(100));
        if let Some(ended) = process.try_wait().unwrap() {
            return ended;
        }
    }
}
