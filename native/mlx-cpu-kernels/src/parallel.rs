//! Work dealt out to threads.

use mlx_sys::blas::MatrixMut;

/// Elements below which a second thread costs more than it saves: some ten microseconds of one pass.
const SERIAL_BELOW_ELEMENTS: usize = 1 << 17;

/// How many of `rows` rows, each of `elements` elements, one thread takes.
pub(crate) fn rows_of_part(rows: usize, elements: usize) -> usize {
    rows.div_ceil(threads_for(rows, rows * elements)).max(1)
}

/// How many threads `tasks` tasks that touch `elements` elements together should have.
pub(crate) fn threads_for(tasks: usize, elements: usize) -> usize {
    if elements < SERIAL_BELOW_ELEMENTS {
        1
    } else {
        mlx_sys::blas::threads().min(tasks).max(1)
    }
}

/// An output that threads fill in parts that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: who writes through it writes to places of its own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The matrix whose first element lies `offset` behind the first of all.
    pub(crate) fn rows(self, offset: usize, row_stride: usize) -> MatrixMut {
        MatrixMut {
            data: self.0.wrapping_add(offset),
            row_stride,
        }
    }
}
