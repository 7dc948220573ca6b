//! Groups of processes that compute together, by the collectives of MLX.
//!
//! mlx-rs does not have them. MLX is lazy and a collective waits for every other process of its group, so each one here is
//! computed before it returns: the processes then make them in the order in which they call them, and none waits for one
//! that another makes later.
//!
//! A call waits for as long as another process takes, and for ever where that one stands still. Where one has ended, MLX's ring
//! fails in its neighbours, and nobody says which one it was. Who uses this watches the other processes by other means.
//!
//! <https://ml-explore.github.io/mlx/build/html/usage/distributed.html>

use std::ffi::{CStr, c_int};
use std::fmt;

use mlx_calls::{array_of, report_errors};
use mlx_rs::error::{Exception, Result};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{
    mlx_array, mlx_distributed_all_gather, mlx_distributed_all_max, mlx_distributed_all_sum, mlx_distributed_group,
    mlx_distributed_group_free, mlx_distributed_group_new, mlx_distributed_group_rank, mlx_distributed_group_size,
    mlx_distributed_init, mlx_distributed_is_available, mlx_distributed_recv_like, mlx_distributed_send, mlx_stream,
};

/// How the processes of a group reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP in a ring, each process to the next.
    Ring,
    /// A message passing interface that is installed.
    Mpi,
    /// RDMA over Thunderbolt.
    Jaccl,
    /// NVIDIA's library.
    Nccl,
}

impl Transport {
    /// All that MLX knows.
    pub const ALL: [Self; 4] = [Self::Ring, Self::Mpi, Self::Jaccl, Self::Nccl];

    /// MLX's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Mpi => "mpi",
            Self::Jaccl => "jaccl",
            Self::Nccl => "nccl",
        }
    }

    /// The transport of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }

    fn c_name(self) -> &'static CStr {
        match self {
            Self::Ring => c"ring",
            Self::Mpi => c"mpi",
            Self::Jaccl => c"jaccl",
            Self::Nccl => c"nccl",
        }
    }

    /// Whether the linked MLX has it, and what it needs is installed.
    pub fn is_available(self) -> bool {
        // SAFETY: the name is a constant.
        unsafe { mlx_distributed_is_available(self.c_name().as_ptr()) }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// All processes that were started together, this one among them.
#[derive(Debug)]
pub struct Group {
    handle: mlx_distributed_group,
    rank: usize,
    size: usize,
}

// SAFETY: the handle is a shared pointer to MLX's group, whose operations are put on a stream's queue; nothing of it belongs to
// a thread.
unsafe impl Send for Group {}

impl Group {
    /// Meets the other processes; returns when all are there.
    ///
    /// MLX takes rank and addresses from the environment that `mlx.launch` sets: `MLX_RANK` and `MLX_HOSTFILE` for the ring.
    ///
    /// # Errors
    /// The environment is not that of the transport, or the others cannot be reached.
    pub fn join(transport: Transport) -> Result<Self> {
        report_errors();
        // SAFETY: a handle without a group, which the call fills; it is freed here or when the group is dropped.
        unsafe {
            let mut handle = mlx_distributed_group_new();
            let status = mlx_distributed_init(&raw mut handle, true, transport.c_name().as_ptr());
            if status != 0 {
                mlx_distributed_group_free(handle);
                return Err(Exception::custom(format!(
                    "MLX could not join the other processes by its `{transport}` backend"
                )));
            }
            let place = (mlx_distributed_group_rank(handle), mlx_distributed_group_size(handle));
            let (Ok(rank), Ok(size)) = (usize::try_from(place.0), usize::try_from(place.1)) else {
                mlx_distributed_group_free(handle);
                return Err(Exception::custom(format!("MLX names {place:?} as rank and size")));
            };
            Ok(Self { handle, rank, size })
        }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Processes in all.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The sum of every process's `array`, which has the same shape and type in all of them; the same bits in all of them.
    ///
    /// # Errors
    /// MLX cannot sum the type.
    pub fn all_sum(&self, array: &Array) -> Result<Array> {
        self.collective("sum arrays", array, mlx_distributed_all_sum)
    }

    /// The largest of every process's values, place by place.
    ///
    /// # Errors
    /// MLX cannot compare the type.
    pub fn all_max(&self, array: &Array) -> Result<Array> {
        self.collective("compare arrays", array, mlx_distributed_all_max)
    }

    /// Every process's `array` one below the other by rank: `[rows, ...]` in each gives `[size * rows, ...]` in all.
    ///
    /// # Errors
    /// MLX cannot send the type.
    pub fn all_gather(&self, array: &Array) -> Result<Array> {
        self.collective("gather arrays", array, mlx_distributed_all_gather)
    }

    /// Sends `array` to the process `to`, which has to receive one of this shape and type. A ring reaches neighbours alone.
    ///
    /// # Errors
    /// There is no such process, or the transport does not reach it.
    pub fn send(&self, array: &Array, to: usize) -> Result<()> {
        let to = self.other(to)?;
        let sent = self.made("send an array", |result, stream| {
            // SAFETY: array, group and stream outlive the call.
            unsafe { mlx_distributed_send(result, array.as_ptr(), to, self.handle, stream) }
        })?;
        eval([&sent])
    }

    /// The array that the process `from` sends, which has this shape and type.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn receive(&self, shape: &[i32], dtype: Dtype, from: usize) -> Result<Array> {
        let from = self.other(from)?;
        let like = mlx_rs::ops::zeros_dtype(shape, dtype)?;
        let received = self.made("receive an array", |result, stream| {
            // SAFETY: array, group and stream outlive the call.
            unsafe { mlx_distributed_recv_like(result, like.as_ptr(), from, self.handle, stream) }
        })?;
        eval([&received])?;
        Ok(received)
    }

    /// Returns when every process has called it.
    ///
    /// # Errors
    /// As [`all_sum`](Self::all_sum).
    pub fn barrier(&self) -> Result<()> {
        self.all_sum(&Array::from_int(0)).map(drop)
    }

    /// The C library's number of another process of the group.
    fn other(&self, rank: usize) -> Result<c_int> {
        match c_int::try_from(rank) {
            Ok(number) if rank < self.size && rank != self.rank => Ok(number),
            _ => Err(Exception::custom(format!(
                "process {} of {} exchanges no array with process {rank}",
                self.rank, self.size
            ))),
        }
    }

    fn collective(
        &self,
        what: &str,
        array: &Array,
        operation: unsafe extern "C" fn(*mut mlx_array, mlx_array, mlx_distributed_group, mlx_stream) -> c_int,
    ) -> Result<Array> {
        let result = self.made(what, |result, stream| {
            // SAFETY: array, group and stream outlive the call.
            unsafe { operation(result, array.as_ptr(), self.handle, stream) }
        })?;
        eval([&result])?;
        Ok(result)
    }

    /// The array that `call` makes, which tries to do `what` on the stream that it is given.
    fn made(&self, what: &str, call: impl FnOnce(*mut mlx_array, mlx_stream) -> c_int) -> Result<Array> {
        let stream = Stream::thread_local_or_default();
        array_of(|result| call(result, stream.as_ptr()))
            .ok_or_else(|| Exception::custom(format!("MLX cannot {what} among {} processes", self.size)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: it was made by `join` and is freed once.
        unsafe { mlx_distributed_group_free(self.handle) };
    }
}
