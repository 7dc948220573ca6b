//! Inputs of operations while they run.

use std::borrow::Cow;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::slice;

use mlx_sys::blas::Matrix;

/// `rust_view` of operation.cpp.
#[repr(C)]
pub(crate) struct RawView {
    data: *const c_void,
    shape: *const i32,
    strides: *const i64,
    dimensions: usize,
}

/// An array of four-byte elements in memory.
#[derive(Clone, Copy)]
pub(crate) struct View<'run> {
    data: *const c_void,
    shape: &'run [i32],
    strides: &'run [i64],
    lifetime: PhantomData<&'run [f32]>,
}

impl<'run> View<'run> {
    /// # Safety
    /// What `raw` points to must outlive the view and must not be written to while it lives.
    pub(crate) unsafe fn new(raw: &'run RawView) -> Self {
        // SAFETY: the caller's promise is passed on; a scalar has no shape to point to.
        let (shape, strides) = unsafe {
            match raw.dimensions {
                0 => (&[][..], &[][..]),
                count => (
                    slice::from_raw_parts(raw.shape, count),
                    slice::from_raw_parts(raw.strides, count),
                ),
            }
        };
        Self {
            data: raw.data,
            shape,
            strides,
            lifetime: PhantomData,
        }
    }

    pub(crate) fn side(&self, axis: usize) -> usize {
        self.shape[axis] as usize
    }

    fn size(&self) -> usize {
        self.shape.iter().map(|side| *side as usize).product()
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(self.strides).rev().all(|(side, stride)| {
            let fits = *side == 1 || *stride == expected;
            expected *= i64::from(*side);
            fits
        })
    }

    /// The elements, row-major.
    ///
    /// # Safety
    /// They must be of type `T`, which has four bytes.
    pub(crate) unsafe fn elements<T: Copy>(&self) -> Cow<'run, [T]> {
        let size = self.size();
        if size == 0 {
            return Cow::Borrowed(&[]);
        }
        if self.is_row_major() {
            // SAFETY: so many elements lie there, of the type that the caller vouches for.
            return Cow::Borrowed(unsafe { slice::from_raw_parts(self.data.cast::<T>(), size) });
        }
        let mut copied = Vec::with_capacity(size);
        // SAFETY: as above; every index is inside the shape.
        unsafe { self.copy_into(&mut copied, 0, self.data.cast::<T>()) };
        Cow::Owned(copied)
    }

    unsafe fn copy_into<T: Copy>(&self, copied: &mut Vec<T>, axis: usize, from: *const T) {
        if axis == self.shape.len() {
            // SAFETY: the caller keeps `from` inside the array.
            copied.push(unsafe { *from });
            return;
        }
        if axis + 1 == self.shape.len() && self.strides[axis] == 1 {
            // SAFETY: the elements of a dense last axis lie side by side.
            copied.extend_from_slice(unsafe { slice::from_raw_parts(from, self.side(axis)) });
            return;
        }
        for index in 0..self.shape[axis] as isize {
            // SAFETY: the index is inside this axis.
            unsafe { self.copy_into(copied, axis + 1, from.offset(index * self.strides[axis] as isize)) };
        }
    }

    /// The elements in f32, row-major.
    pub(crate) fn f32s(&self) -> Cow<'run, [f32]> {
        // SAFETY: any four bytes are an f32; which inputs are in f32 the operations check when they are made.
        unsafe { self.elements::<f32>() }
    }

    /// The elements in i32, row-major.
    pub(crate) fn i32s(&self) -> Cow<'run, [i32]> {
        // SAFETY: any four bytes are an i32.
        unsafe { self.elements::<i32>() }
    }

    /// The view of four axes with a last one that lies densely in memory, copied where it does not.
    pub(crate) fn heads(&self) -> Heads<'run> {
        let sides: [usize; 4] = std::array::from_fn(|axis| self.side(axis));
        let dense = self.strides.iter().all(|stride| *stride >= 0) && (sides[3] == 1 || self.strides[3] == 1);
        let strides = if dense {
            std::array::from_fn(|axis| self.strides[axis] as usize)
        } else {
            [sides[1] * sides[2] * sides[3], sides[2] * sides[3], sides[3]]
        };
        let copy = (!dense).then(|| self.f32s());
        Heads {
            data: copy.as_ref().map_or(self.data.cast(), |copy| copy.as_ptr()),
            sides,
            strides,
            _copy: copy,
        }
    }
}

/// Heads `[batch, heads, tokens, dimensions]`.
pub(crate) struct Heads<'run> {
    data: *const f32,
    pub(crate) sides: [usize; 4],
    strides: [usize; 3],
    /// What `data` points into, where the view was copied.
    _copy: Option<Cow<'run, [f32]>>,
}

// SAFETY: nothing writes to what `data` points to while this lives.
unsafe impl Sync for Heads<'_> {}

impl Heads<'_> {
    /// The tokens of one head from `first` on, a row to each.
    pub(crate) fn of(&self, batch: usize, head: usize, first: usize) -> Matrix {
        let offset = batch * self.strides[0] + head * self.strides[1] + first * self.strides[2];
        Matrix {
            data: self.data.wrapping_add(offset),
            row_stride: self.strides[2],
            column_stride: 1,
        }
    }
}
