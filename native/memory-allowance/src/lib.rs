//! Ends the program when a piece of work takes more memory than it may.
//!
//! For work that other people's files decide upon and that cannot be asked to stop, such as an interpreter without a limit
//! of its own. Safe Rust has no way to bound it: a failed allocation cannot be caught.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The exit code of a program that took too much: it could not complete.
const EXIT_CODE: i32 = 2;

thread_local! {
    /// What the thread may still take, and what is said when it takes more; `None` for no limit.
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Allowance {
    left: usize,
    message: &'static str,
}

/// Does `work`, which may hold `bytes` more than before at any moment. When it takes more, the program writes `message` to
/// standard error and ends with exit code 2.
///
/// Only programs whose global allocator is [`LimitedAllocator`] are bounded, and only what this thread allocates counts.
pub fn within<T>(bytes: usize, message: &'static str, work: impl FnOnce() -> T) -> T {
    let _restored = Restored(ALLOWANCE.replace(Some(Allowance { left: bytes, message })));
    work()
}

struct Restored(Option<Allowance>);

impl Drop for Restored {
    fn drop(&mut self) {
        ALLOWANCE.set(self.0);
    }
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
    let Some(allowance) = ALLOWANCE.get() else { return };
    match allowance.left.checked_sub(bytes) {
        Some(left) => ALLOWANCE.set(Some(Allowance { left, ..allowance })),
        None => end(allowance.message),
    }
}

fn give_back(bytes: usize) {
    if let Some(allowance) = ALLOWANCE.get() {
        let left = allowance.left.saturating_add(bytes);
        ALLOWANCE.set(Some(Allowance { left, ..allowance }));
    }
}

fn end(message: &str) -> ! {
    // SAFETY: the message is valid for its length; both calls may be made from anywhere and allocate nothing.
    unsafe {
        libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        libc::_exit(EXIT_CODE)
    }
}
