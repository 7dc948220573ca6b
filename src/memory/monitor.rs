use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlx_rs::error::Result;
use mlx_rs::memory::{active_memory, cache_memory};

use super::{MlxMemory, system_memory};

/// Samples that are kept; where a run has more, every other one is dropped and the rest are taken half as often.
const KEPT_SAMPLES: usize = 1024;

/// The memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySample {
    /// Since the monitor was started.
    pub at: Duration,
    /// In MLX's arrays.
    pub active: u64,
    /// Kept by MLX for later arrays.
    pub cache: u64,
    /// Free for programs without swapping; `None` where the system does not tell.
    pub available: Option<u64>,
}

/// The memory of one step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepMemory {
    /// In MLX's arrays after the step.
    pub active: u64,
    /// The most in MLX's arrays during the step, by MLX's own counter: exact, however short the moment was.
    pub peak: u64,
    /// Kept by MLX for later arrays after the step.
    pub cache: u64,
    /// The least that a sample during the step found free for programs without swapping; `None` where the system does not
    /// tell.
    pub lowest_available: Option<u64>,
}

/// Watches the memory while work goes on.
///
/// A thread of its own looks at MLX's counters and the system's at an interval, some microseconds each time, and
/// [`step`](Self::step) reads MLX's exact peak. The counters are those of the whole process, and a step resets MLX's peak,
/// so there is one monitor at a time. Dropping it ends the thread.
#[derive(Debug)]
pub struct MemoryMonitor {
    shared: Arc<Shared>,
    highest_peak: u64,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    course: Mutex<Course>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Course {
    samples: Vec<MemorySample>,
    /// Times that the interval was doubled.
    doublings: u32,
    lowest_available: Option<u64>,
    lowest_available_of_step: Option<u64>,
    is_over: bool,
}

impl MemoryMonitor {
    /// An interval that costs nothing that could be measured.
    pub const INTERVAL: Duration = Duration::from_millis(500);

    /// Starts to watch, with a first sample at once, and resets MLX's peak.
    pub fn start(interval: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        MlxMemory::read_and_reset_peak()?;
        let started = Instant::now();
        shared.course().add(sample(started)?);
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || watched.watch(started, interval));
        Ok(Self {
            shared,
            highest_peak: 0,
            thread: Some(thread),
        })
    }

    /// The memory since the last call, or since the start; MLX's peak begins anew.
    pub fn step(&mut self) -> Result<StepMemory> {
        let memory = MlxMemory::read_and_reset_peak()?;
        self.highest_peak = self.highest_peak.max(memory.peak);
        // A step shorter than the interval has no sample of its own.
        let now = system_memory().map(|memory| memory.available);
        let mut course = self.shared.course();
        course.note_available(now);
        Ok(StepMemory {
            active: memory.active,
            peak: memory.peak,
            cache: memory.cache,
            lowest_available: course.lowest_available_of_step.take(),
        })
    }

    /// The most in MLX's arrays since the start.
    pub fn highest_peak(&self) -> Result<u64> {
        Ok(self.highest_peak.max(MlxMemory::read()?.peak))
    }

    /// The least that was found free for programs since the start; `None` where the system does not tell.
    pub fn lowest_available(&self) -> Option<u64> {
        self.shared.course().lowest_available
    }

    /// The samples since the start, at most 1024 of them, evenly over the whole time.
    pub fn samples(&self) -> Vec<MemorySample> {
        self.shared.course().samples.clone()
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        self.shared.course().is_over = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which changes nothing about the end of the watch.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The course; a thread that panicked while it had it left nothing half done.
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, started: Instant, interval: Duration) {
        let mut course = self.course();
        while !course.is_over {
            let wait = interval.saturating_mul(1 << course.doublings);
            let (next, timeout) = self
                .ended
                .wait_timeout(course, wait)
                .unwrap_or_else(PoisonError::into_inner);
            course = next;
            if timeout.timed_out() && !course.is_over {
                // The lock is given up while the system is asked, so that a step never waits for it.
                drop(course);
                let taken = sample(started);
                course = self.course();
                match taken {
                    Ok(taken) => course.add(taken),
                    // MLX has no counters on this device; the steps say so.
                    Err(_) => course.is_over = true,
                }
            }
        }
    }
}

impl Course {
    fn add(&mut self, sample: MemorySample) {
        self.note_available(sample.available);
        self.samples.push(sample);
        if self.samples.len() > KEPT_SAMPLES {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.doublings += 1;
        }
    }

    fn note_available(&mut self, available: Option<u64>) {
        for lowest in [&mut self.lowest_available, &mut self.lowest_available_of_step] {
            *lowest = [*lowest, available].into_iter().flatten().min();
        }
    }
}

fn sample(started: Instant) -> Result<MemorySample> {
    Ok(MemorySample {
        at: started.elapsed(),
        active: active_memory()? as u64,
        cache: cache_memory()? as u64,
        available: system_memory().map(|memory| memory.available),
    })
}

#[cfg(test)]
mod tests {
    use super::{Course, KEPT_SAMPLES, MemorySample};
    use std::time::Duration;

    fn sample(second: u64, available: Option<u64>) -> MemorySample {
        MemorySample {
            at: Duration::from_secs(second),
            active: 1,
            cache: 2,
            available,
        }
    }

    #[test]
    fn a_long_run_keeps_samples_of_its_whole_length() {
        let mut course = Course::default();
        for second in 0..10 * KEPT_SAMPLES as u64 {
            course.add(sample(second, None));
        }
        assert!(course.samples.len() <= KEPT_SAMPLES);
        assert_eq!(course.samples[0].at, Duration::ZERO);
        assert!(course.samples.is_sorted_by_key(|sample| sample.at));
        assert!(course.doublings >= 9, "{}", course.doublings);
    }

    #[test]
    fn the_least_that_was_available_is_that_of_the_step_and_of_the_run() {
        let mut course = Course::default();
        for available in [Some(7), Some(3), None] {
            course.add(sample(0, available));
        }
        assert_eq!(course.lowest_available_of_step.take(), Some(3));
        course.add(sample(1, Some(5)));
        assert_eq!(
            (course.lowest_available_of_step, course.lowest_available),
            (Some(5), Some(3))
        );
    }
}
