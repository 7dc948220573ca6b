//! Which arrays MLX computes a result from.
//!
//! MLX is lazy: a result that was not evaluated yet knows the operations and the arrays that it will be made from.
//! mlx-rs has no access to this graph, and MLX's C layer has one: it prints the graph to a stream of the C library.

use std::ffi::{CString, c_void};
use std::fmt;

use mlx_rs::Array;
use mlx_sys::{
    mlx_array, mlx_node_namer, mlx_node_namer_free, mlx_node_namer_new, mlx_node_namer_set_name, mlx_print_graph,
    mlx_vector_array_free, mlx_vector_array_new_data,
};

/// The graph could not be read.
#[derive(Debug)]
pub struct GraphError {
    what: &'static str,
}

impl fmt::Display for GraphError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.what)
    }
}

impl std::error::Error for GraphError {}

/// The graph of `outputs` as MLX prints it, in which the arrays of `labels` are called so.
///
/// The first line lists the arrays that are computed from nothing, `Inputs: NAME [(2,3), float32], ...`, the second the
/// outputs, and each line after it an operation, `Matmul A [...], B [...] -> C [...]`. Other arrays are called `A`, `B` and
/// so on.
///
/// # Errors
/// A name holds a zero byte, there is no room for a temporary file, or MLX does not print.
pub fn printed_graph(outputs: &[&Array], labels: &[(&str, &Array)]) -> Result<String, GraphError> {
    let namer = Namer::new(labels)?;
    let stream = Stream::new()?;
    let handles: Vec<mlx_array> = outputs.iter().map(|array| array.as_ptr()).collect();
    // SAFETY: the handles are those of arrays that outlive the call, which copies them; stream and namer are open, and the
    // vector is freed here.
    let status = unsafe {
        let vector = mlx_vector_array_new_data(handles.as_ptr(), handles.len());
        let status = mlx_print_graph(stream.0.cast(), namer.0, vector);
        mlx_vector_array_free(vector);
        status
    };
    if status == 0 {
        stream.text()
    } else {
        Err(GraphError {
            what: "MLX does not print the graph",
        })
    }
}

struct Namer(mlx_node_namer);

impl Namer {
    fn new(labels: &[(&str, &Array)]) -> Result<Self, GraphError> {
        // SAFETY: the namer is freed when it is dropped.
        let namer = Self(unsafe { mlx_node_namer_new() });
        for (name, array) in labels {
            let name = CString::new(*name).map_err(|_| GraphError {
                what: "a name holds a zero byte",
            })?;
            // SAFETY: MLX copies the name, and of the array its number alone.
            unsafe { mlx_node_namer_set_name(namer.0, array.as_ptr(), name.as_ptr()) };
        }
        Ok(namer)
    }
}

impl Drop for Namer {
    fn drop(&mut self) {
        // SAFETY: it was made here and is freed once.
        unsafe { mlx_node_namer_free(self.0) };
    }
}

/// A temporary file of the C library, which vanishes when it is closed.
struct Stream(*mut libc::FILE);

impl Stream {
    fn new() -> Result<Self, GraphError> {
        // SAFETY: it needs nothing and gives null where it fails.
        let stream = unsafe { libc::tmpfile() };
        if stream.is_null() {
            return Err(GraphError {
                what: "there is no room for a temporary file",
            });
        }
        Ok(Self(stream))
    }

    /// What was written to it.
    fn text(&self) -> Result<String, GraphError> {
        const PART: usize = 1 << 16;
        let mut text = Vec::new();
        let mut part = vec![0_u8; PART];
        // SAFETY: the stream is open, and the buffer has room for what is read at one time.
        unsafe {
            libc::rewind(self.0);
            loop {
                let read = libc::fread(part.as_mut_ptr().cast::<c_void>(), 1, PART, self.0);
                text.extend_from_slice(&part[..read]);
                if read < PART {
                    break;
                }
            }
        }
        String::from_utf8(text).map_err(|_| GraphError {
            what: "MLX prints the graph in no text",
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it was opened here and is closed once.
        unsafe { libc::fclose(self.0) };
    }
}
