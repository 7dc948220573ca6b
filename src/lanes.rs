//! Streams on which parts of a computation run at the same time.

use std::cell::RefCell;

use mlx_rs::error::Result;
use mlx_rs::{Device, Stream, with_stream};

thread_local! {
    // MLX never ends a stream's thread, so that a process which trains a thousand times must not ask for new ones.
    static CPU_STREAMS: RefCell<Vec<Stream>> = const { RefCell::new(Vec::new()) };
}

/// Streams on which parts of a batch are computed at the same time.
///
/// MLX's CPU backend works through one stream on one thread, and most of what surrounds the matrix products runs on
/// that thread alone. Two halves of a batch on two streams use two cores for all of it. A GPU needs no such help.
#[derive(Debug)]
pub struct Lanes {
    streams: Vec<Stream>,
}

impl Lanes {
    /// One lane: the default stream.
    pub fn single() -> Self {
        Self { streams: Vec::new() }
    }

    /// `count` lanes on the CPU.
    pub fn on_cpu(count: usize) -> Self {
        Self {
            streams: CPU_STREAMS.with_borrow_mut(|streams| {
                while streams.len() < count {
                    streams.push(Stream::new_with_device(&Device::cpu()));
                }
                streams[..count].to_vec()
            }),
        }
    }

    /// Lets matrix products use one thread each for as long as the guard lives, when [`each`](Self::each) is to run as many
    /// parts.
    pub fn share_cores_among(&self, parts: usize) -> SharedCores {
        SharedCores::new(self.streams.len() > 1 && parts > 1)
    }

    /// The number of lanes.
    pub fn count(&self) -> usize {
        self.streams.len().max(1)
    }

    /// Runs `work` on each of `parts`, of which there are at most as many as lanes, each on a lane of its own.
    pub fn each<T, U>(&self, parts: &[T], work: impl Fn(&T) -> Result<U>) -> Result<Vec<U>> {
        if self.streams.len() < 2 || parts.len() < 2 {
            return parts.iter().map(work).collect();
        }
        parts
            .iter()
            .zip(&self.streams)
            .map(|(part, stream)| with_stream(stream, || work(part)))
            .collect()
    }
}

/// While it lives, matrix products of several lanes do not compete for cores; one within another changes nothing.
#[derive(Debug)]
pub struct SharedCores {
    /// The number of threads to go back to, where this guard changed it.
    before: Option<usize>,
}

impl SharedCores {
    fn new(active: bool) -> Self {
        Self {
            before: active.then(|| use_threads(1)),
        }
    }
}

impl Drop for SharedCores {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            use_threads(before);
        }
    }
}

/// Threads of one matrix product, 0 for all cores; returns what it was. Only Linux has products of our own.
#[cfg(target_os = "linux")]
fn use_threads(threads: usize) -> usize {
    mlx_sys::blas::set_threads(threads)
}

#[cfg(not(target_os = "linux"))]
fn use_threads(_threads: usize) -> usize {
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::Lanes;

    #[test]
    fn a_guard_within_another_leaves_the_cores_shared() {
        let lanes = Lanes::on_cpu(2);
        let all = mlx_sys::blas::threads();
        let outer = lanes.share_cores_among(2);
        drop(lanes.share_cores_among(2));
        assert_eq!(mlx_sys::blas::threads(), 1);
        drop(outer);
        assert_eq!(mlx_sys::blas::threads(), all);
    }
}
