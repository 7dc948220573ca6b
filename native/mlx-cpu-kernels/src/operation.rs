//! Operations of MLX that are computed by Rust.
//!
//! MLX is extended in C++: `operation.cpp` is a primitive that hands evaluation and differentiation to the functions here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, Stream, with_stream};
use mlx_sys::{
    mlx_array, mlx_device_free, mlx_device_get_type, mlx_device_new, mlx_device_type__MLX_CPU, mlx_stream_get_device,
};

use crate::view::{RawView, View};

/// What an operation computes from arrays of four-byte elements; its outputs are f32.
pub(crate) trait Operation: Send + Sync + Sized + 'static {
    /// What MLX calls it.
    const NAME: &'static CStr;

    /// Fills `outputs`, which hold anything, row-major. Runs on the thread of a stream.
    fn run(&self, inputs: &[View<'_>], outputs: &mut [&mut [f32]]);

    /// The products of `cotangents`, one to each output, with the derivatives by the inputs whose numbers are `arguments`.
    fn vjp(&self, inputs: &[Array], cotangents: &[Array], outputs: &[Array], arguments: &[usize])
    -> Result<Vec<Array>>;

    /// The outputs, of these `shapes`, for `inputs`, on the thread's CPU stream.
    ///
    /// # Safety
    /// [`Self::run`] must be able to rely on the shapes and types of `inputs`, and on those of its outputs.
    unsafe fn apply<const OUTPUTS: usize>(
        self,
        inputs: &[&Array],
        shapes: [&[i32]; OUTPUTS],
    ) -> Result<[Array; OUTPUTS]> {
        let lengths = shapes.map(|shape| shape.iter().map(|side| *side as usize).product());
        let stream = Stream::thread_local_or_default();
        let stream_handle = stream.as_ptr();
        let table = Table::of(Held {
            operation: self,
            lengths: lengths.to_vec(),
            stream,
        });
        let handles: Vec<*mut c_void> = inputs.iter().map(|array| array.as_ptr().ctx).collect();
        let sides = shapes.concat();
        let dimensions = shapes.map(<[i32]>::len);
        let mut outputs = [null_mut(); OUTPUTS];
        // SAFETY: handles and shapes outlive the call; the table is given away, and is dropped after the stream was read.
        let message = unsafe {
            rust_operation_apply(
                table,
                handles.as_ptr(),
                handles.len(),
                sides.as_ptr(),
                dimensions.as_ptr(),
                OUTPUTS,
                stream_handle.ctx,
                outputs.as_mut_ptr(),
            )
        };
        if let Some(message) = Message::taken(message) {
            return Err(Exception::custom(message));
        }
        // SAFETY: without a message every output is an array that nobody else owns.
        Ok(outputs.map(|ctx| unsafe { Array::from_ptr(mlx_array { ctx }) }))
    }
}

/// An operation beside the sizes of what it computes, and where.
struct Held<O> {
    operation: O,
    lengths: Vec<usize>,
    /// MLX differentiates when whoever chose the stream has long left it; the gradients belong on the same one.
    stream: Stream,
}

/// `rust_operation` of operation.cpp.
#[repr(C)]
struct Table {
    this: *const c_void,
    name: *const c_char,
    run: unsafe extern "C" fn(*const c_void, *const RawView, usize, *const *mut f32, usize),
    vjp: VectorJacobianProduct,
    release: unsafe extern "C" fn(*const c_void),
}

type VectorJacobianProduct = unsafe extern "C" fn(
    *const c_void,
    *const *mut c_void,
    usize,
    *const *mut c_void,
    *const *mut c_void,
    usize,
    *const c_int,
    usize,
    *mut *mut c_void,
) -> *mut c_char;

unsafe extern "C" {
    fn rust_operation_apply(
        table: Table,
        inputs: *const *mut c_void,
        input_count: usize,
        shapes: *const i32,
        dimensions: *const usize,
        output_count: usize,
        stream: *mut c_void,
        outputs: *mut *mut c_void,
    ) -> *mut c_char;
}

impl Table {
    fn of<O: Operation>(held: Held<O>) -> Self {
        Self {
            this: Box::into_raw(Box::new(held)).cast(),
            name: O::NAME.as_ptr(),
            run: run::<O>,
            vjp: vjp::<O>,
            release: release::<O>,
        }
    }
}

/// A panic ends the process: there is nobody on a stream's thread to catch it.
unsafe extern "C" fn run<O: Operation>(
    this: *const c_void,
    inputs: *const RawView,
    input_count: usize,
    outputs: *const *mut f32,
    output_count: usize,
) {
    // SAFETY: the C++ side hands over what `Table::of` gave, views that live as long as the call, and memory of the
    // outputs' sizes that nobody else touches.
    unsafe {
        let held = &*this.cast::<Held<O>>();
        let inputs = match input_count {
            // Nothing is pointed to then.
            0 => &[],
            count => slice::from_raw_parts(inputs, count),
        };
        let views: Vec<View<'_>> = inputs.iter().map(|raw| View::new(raw)).collect();
        let mut filled: Vec<&mut [f32]> = slice::from_raw_parts(outputs, output_count)
            .iter()
            .zip(&held.lengths)
            .map(|(data, length)| match length {
                0 => Default::default(),
                length => slice::from_raw_parts_mut(*data, *length),
            })
            .collect();
        held.operation.run(&views, &mut filled);
    }
}

unsafe extern "C" fn vjp<O: Operation>(
    this: *const c_void,
    inputs: *const *mut c_void,
    input_count: usize,
    cotangents: *const *mut c_void,
    outputs: *const *mut c_void,
    output_count: usize,
    arguments: *const c_int,
    argument_count: usize,
    results: *mut *mut c_void,
) -> *mut c_char {
    // SAFETY: the C++ side hands over what `Table::of` gave, and arrays that it leaves to this function.
    let (held, inputs, cotangents, outputs, arguments) = unsafe {
        (
            &*this.cast::<Held<O>>(),
            owned(inputs, input_count),
            owned(cotangents, output_count),
            owned(outputs, output_count),
            slice::from_raw_parts(arguments, argument_count),
        )
    };
    let arguments: Vec<usize> = arguments.iter().map(|number| *number as usize).collect();
    let gradients = with_stream(&held.stream, || {
        held.operation.vjp(&inputs, &cotangents, &outputs, &arguments)
    });
    match gradients {
        Ok(gradients) => {
            for (index, gradient) in gradients.into_iter().enumerate() {
                // SAFETY: there is room for one result to each argument, and the array is given away.
                unsafe { *results.add(index) = std::mem::ManuallyDrop::new(gradient).as_ptr().ctx };
            }
            null_mut()
        }
        Err(error) => Message::given(&error.to_string()),
    }
}

unsafe extern "C" fn release<O: Operation>(this: *const c_void) {
    // SAFETY: the C++ side calls this once with what `Table::of` gave.
    drop(unsafe { Box::from_raw(this.cast_mut().cast::<Held<O>>()) });
}

/// Arrays that the caller gives away.
unsafe fn owned(arrays: *const *mut c_void, count: usize) -> Vec<Array> {
    // SAFETY: the caller hands over `count` arrays.
    unsafe { slice::from_raw_parts(arrays, count) }
        .iter()
        .map(|ctx| {
            // SAFETY: it is an array, and this its only owner.
            unsafe { Array::from_ptr(mlx_array { ctx: *ctx }) }
        })
        .collect()
}

/// Texts from `malloc`, which both sides can free.
struct Message;

impl Message {
    fn given(text: &str) -> *mut c_char {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the text ends with a zero byte.
        unsafe { libc::strdup(text.as_ptr()) }
    }

    fn taken(message: *mut c_char) -> Option<String> {
        if message.is_null() {
            return None;
        }
        // SAFETY: it is a text from `malloc` that nobody else frees.
        unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            libc::free(message.cast());
            Some(text)
        }
    }
}

static SERVING: AtomicBool = AtomicBool::new(true);

/// Has [`serve`] say no from now on, or yes again; returns what it was.
///
/// What is then computed is what a GPU computes, with MLX's own operations: tests compare the two.
pub fn set_serving(serving: bool) -> bool {
    SERVING.swap(serving, Ordering::Relaxed)
}

/// Whether the operations of this package serve `arrays`: they are in f32, and the thread's stream is one of the CPU.
pub fn serve<'array>(arrays: impl IntoIterator<Item = &'array Array>) -> bool {
    SERVING.load(Ordering::Relaxed) && arrays.into_iter().all(|array| array.dtype() == Dtype::Float32) && runs_on_cpu()
}

fn runs_on_cpu() -> bool {
    let stream = Stream::thread_local_or_default();
    // SAFETY: the stream lives; the device is made here and freed once.
    unsafe {
        let mut device = mlx_device_new();
        let mut kind = 0;
        let known = mlx_stream_get_device(&raw mut device, stream.as_ptr()) == 0
            && mlx_device_get_type(&raw mut kind, device) == 0;
        mlx_device_free(device);
        known && kind == mlx_device_type__MLX_CPU
    }
}

/// The error of an operation whose inputs do not fit each other.
pub(crate) fn unsupported(what: &str, inputs: &[&Array]) -> Exception {
    let found: Vec<String> = inputs
        .iter()
        .map(|array| format!("{:?} in {:?}", array.shape(), array.dtype()))
        .collect();
    Exception::custom(format!("{what} cannot be computed from {}", found.join(" and ")))
}

/// The error of a gradient that is differentiated once more.
pub(crate) fn no_second_derivative(name: &CStr) -> Exception {
    Exception::custom(format!("{} has no derivative of its own", name.to_string_lossy()))
}
