//! Ends the program when a piece of work takes more memory or time than it may.
//!
//! For work that other people's files decide upon and that cannot be asked to stop, such as an interpreter without limits
//! of its own. Safe Rust has no way to bound it: a failed allocation cannot be caught, and a thread cannot be ended.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The exit code of a program that took too much: it could not complete.
const EXIT_CODE: i32 = 2;
/// How often the time of work that goes on is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// What a piece of work may take, and what is said when it takes more.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Bytes that it may hold at any moment, of those that its thread allocates.
    pub bytes: usize,
    /// What standard error is told when it takes more.
    pub too_much_memory: &'static str,
    /// How long it may take.
    pub time: Duration,
    /// What standard error is told when it takes longer.
    pub too_much_time: &'static str,
}

thread_local! {
    /// The bytes that the thread may still take, and what is said when it takes more; `None` for no limit.
    static BYTES: Cell<Option<(usize, &'static str)>> = const { Cell::new(None) };
}

static IS_WATCHED: AtomicBool = AtomicBool::new(false);
static DEADLINES: Mutex<Vec<(Instant, &'static str)>> = Mutex::new(Vec::new());
static BEGUN: Condvar = Condvar::new();

/// Does `work`. When it takes more than it may, the program writes why to standard error and ends with exit code 2.
///
/// Memory is bounded in programs whose global allocator is [`LimitedAllocator`], and time in those that have called
/// [`watch_time`]; in others the work is done without limits.
pub fn within<T>(allowance: Allowance, work: impl FnOnce() -> T) -> T {
    let deadline = IS_WATCHED.load(Ordering::Relaxed).then(|| {
        let deadline = (Instant::now() + allowance.time, allowance.too_much_time);
        deadlines().push(deadline);
        BEGUN.notify_one();
        deadline.0
    });
    let _over = Over {
        bytes: BYTES.replace(Some((allowance.bytes, allowance.too_much_memory))),
        deadline,
    };
    work()
}

/// Lifts the limits of work that is over.
struct Over {
    bytes: Option<(usize, &'static str)>,
    deadline: Option<Instant>,
}

impl Drop for Over {
    fn drop(&mut self) {
        BYTES.set(self.bytes);
        if let Some(own) = self.deadline {
            let mut deadlines = deadlines();
            if let Some(place) = deadlines.iter().position(|(deadline, _)| *deadline == own) {
                deadlines.swap_remove(place);
            }
        }
    }
}

fn deadlines() -> std::sync::MutexGuard<'static, Vec<(Instant, &'static str)>> {
    DEADLINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to watch the time that work takes.
pub fn watch_time() {
    let watch = || {
        loop {
            let none_begun = |deadlines: &mut Vec<_>| deadlines.is_empty();
            let held = BEGUN
                .wait_while(deadlines(), none_begun)
                .unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if let Some((_, message)) = held.iter().find(|(deadline, _)| *deadline < now) {
                end(message);
            }
            drop(held);
            std::thread::sleep(GLANCE);
        }
    };
    let watcher = std::thread::Builder::new().name("time watcher".to_owned()).spawn(watch);
    IS_WATCHED.store(watcher.is_ok(), Ordering::Relaxed);
}

/// The system's allocator, which keeps to what [`within`] allows.
pub struct LimitedAllocator;

// SAFETY: every call is handed to the system's allocator as it came; the counters are cells without destructors, which
// neither allocate nor unwind.
unsafe impl GlobalAlloc for LimitedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        take(new_size);
        give_back(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

fn take(bytes: usize) {
    let Some((left, message)) = BYTES.get() else { return };
    match left.checked_sub(bytes) {
        Some(left) => BYTES.set(Some((left, message))),
        None => end(message),
    }
}

fn give_back(bytes: usize) {
    if let Some((left, message)) = BYTES.get() {
        BYTES.set(Some((left.saturating_add(bytes), message)));
    }
}

fn end(message: &str) -> ! {
    // SAFETY: the message is valid for its length; both calls may be made from anywhere and allocate nothing.
    unsafe {
        libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        libc::_exit(EXIT_CODE)
    }
}
