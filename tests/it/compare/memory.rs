//! Memory of real processes, watched while they live.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::skip;
use mlx_diagnose::compare::client::Clock;
use mlx_diagnose::compare::memory::{MemoryWatch, Processes};
use mlx_diagnose::compare::{MemoryRecord, MemorySample, ProcessSample};

const INTERVAL: Duration = Duration::from_millis(10);
/// Long past what any of these need; only a watch that never sees something waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Processes with these numbers, and those whose command lines have this word.
#[derive(Default)]
struct Named {
    roots: Vec<u32>,
    word: Option<&'static str>,
    /// How long asking for the roots takes.
    delay: Duration,
}

impl Processes for Named {
    fn roots(&self) -> Vec<u32> {
        thread::sleep(self.delay);
        self.roots.clone()
    }

    fn owns(&self, command_line: &[String]) -> bool {
        self.word.is_some_and(|own| command_line.iter().any(|word| word == own))
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell that does what it is told line by line, and answers each with `done`.
struct Shell {
    running: Running,
    told: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    fn start() -> Self {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let running = Running(child);
        Self { running, told, answers }
    }

    fn does(&mut self, line: &str) {
        writeln!(self.told, "{line}\necho done").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }
}

fn watch(processes: Named) -> MemoryWatch {
    MemoryWatch::start(Arc::new(processes), Clock::start(), INTERVAL)
}

fn roots(roots: &[u32]) -> Named {
    Named {
        roots: roots.to_vec(),
        ..Named::default()
    }
}

/// Watches anew until a sample is as wanted.
fn sample_that(processes: impl Fn() -> Named, wanted: impl Fn(&MemorySample) -> bool) -> MemorySample {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let watch = watch(processes());
        thread::sleep(2 * INTERVAL);
        let (_, samples) = watch.stop();
        if let Some(sample) = samples.into_iter().find(&wanted) {
            return sample;
        }
    }
    panic!("no sample was as wanted");
}

fn names(sample: &MemorySample) -> Vec<&str> {
    sample.processes.iter().map(|process| process.name.as_str()).collect()
}

fn process(sample: &MemorySample, pid: u32) -> Option<&ProcessSample> {
    sample.processes.iter().find(|process| process.pid == pid)
}

/// What a watch of this process found in a few samples.
fn own_process() -> (MemoryRecord, Vec<MemorySample>) {
    let watch = watch(roots(&[std::process::id()]));
    thread::sleep(5 * INTERVAL);
    watch.stop()
}

#[test]
fn this_process_is_counted_as_the_kernel_counts_it() {
    let (record, samples) = own_process();
    let kernel = |file: &str, line: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        let line = text
            .lines()
            .find(|found| found.starts_with(&format!("{line}:")))
            .unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let own = process(samples.last().unwrap(), std::process::id()).unwrap();
    // Other tests of this process allocate meanwhile.
    let near = |found: Option<u64>, expected: u64| found.unwrap().abs_diff(expected) < expected / 2 + (16 << 20);
    assert!(near(own.resident, kernel("status", "VmRSS")), "{own:?}");
    assert!(near(own.anonymous, kernel("status", "RssAnon")), "{own:?}");
    assert!(near(own.file, kernel("status", "RssFile")), "{own:?}");
    assert!(near(own.proportional, kernel("smaps_rollup", "Pss")), "{own:?}");
    assert_eq!((own.footprint, own.wired), (None, None));
    assert_eq!(own.charged(), own.proportional);
    assert_eq!(record.unknown, Vec::<String>::new());
    assert_eq!((record.taken, record.interval_ms), (samples.len(), 10));
    let available = samples.last().unwrap().available.unwrap();
    assert!(0 < available && available < 1 << 50, "{available}");
}

#[test]
fn what_the_sampler_costs_is_processor_time_not_waiting() {
    let (record, _) = own_process();
    assert!(record.cost_seconds > 0.0, "{record:?}");
    let slow = Named {
        delay: Duration::from_millis(200),
        ..roots(&[std::process::id()])
    };
    let watch = watch(slow);
    thread::sleep(Duration::from_millis(100));
    let (record, samples) = watch.stop();
    assert_eq!(samples.len(), 1);
    assert!(record.cost_seconds < 0.2, "{record:?}");
}

#[test]
fn memory_that_a_child_takes_is_seen() {
    const BYTES: u64 = 48 << 20;
    let Some(python) = python() else {
        skip::because("there is no python3");
        return;
    };
    let script = format!(
        "import sys\nprint('done', flush=True)\nsys.stdin.readline()\nheld = bytearray(b'x') * {BYTES}\nprint('done', flush=True)\nsys.stdin.readline()"
    );
    let mut child = Running::start(
        Command::new(python)
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut told = child.0.stdin.take().unwrap();
    let mut answers = BufReader::new(child.0.stdout.take().unwrap());
    let mut wait = || answers.read_line(&mut String::new()).unwrap();
    wait();
    let watch = watch(roots(&[child.pid()]));
    thread::sleep(5 * INTERVAL);
    writeln!(told).unwrap();
    wait();
    thread::sleep(5 * INTERVAL);
    let (record, samples) = watch.stop();
    let charged = |sample: &MemorySample| sample.charged().unwrap();
    let grown = charged(samples.last().unwrap()) - charged(&samples[0]);
    // The interpreter itself takes less than a MiB for two lines of work, in pages of its own.
    assert!(grown.abs_diff(BYTES) < 1 << 20, "grew by {grown} bytes");
    let anonymous = |sample: &MemorySample| sample.processes[0].anonymous.unwrap();
    assert!((anonymous(samples.last().unwrap()) - anonymous(&samples[0])).abs_diff(BYTES) < 1 << 20);
    let holder = record.holder.unwrap();
    assert!(
        holder.starts_with("python") && holder.ends_with(&format!("({})", child.pid())),
        "{holder}"
    );
}

fn python() -> Option<&'static str> {
    let found = Command::new("python3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some("python3")
}

#[test]
fn children_of_children_are_counted_and_the_sum_is_that_of_its_parts() {
    let mut shell = Shell::start();
    let pid = shell.running.pid();
    shell.does("sh -c 'sleep 60 & wait' & child=$!");
    let sample = sample_that(|| roots(&[pid]), |sample| names(sample) == ["sh", "sh", "sleep"]);
    let numbers: Vec<u32> = sample.processes.iter().map(|process| process.pid).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let parts: u64 = sample.processes.iter().map(|process| process.charged().unwrap()).sum();
    assert_eq!(sample.charged(), Some(parts));
    assert!(parts > 0);
    for process in &sample.processes {
        // Pages that several processes share are divided among them.
        assert!(process.proportional <= process.resident, "{process:?}");
    }
    let grandchild = numbers[2];
    shell.does(&format!("kill {grandchild} $child"));
    let sample = sample_that(|| roots(&[pid]), |sample| sample.processes.len() == 1);
    assert_eq!(sample.processes[0].pid, pid);
}

#[test]
fn a_process_that_ends_vanishes_and_one_that_comes_later_is_seen() {
    let mut first = Running::start(Command::new("sleep").arg("60"));
    let second = Running::start(Command::new("sleep").arg("60"));
    let numbers = [first.pid(), second.pid()];
    let watch = watch(roots(&[first.pid(), second.pid()]));
    thread::sleep(5 * INTERVAL);
    first.end();
    thread::sleep(5 * INTERVAL);
    let (_, samples) = watch.stop();
    let seen = |sample: &MemorySample| numbers.map(|pid| process(sample, pid).is_some());
    assert_eq!(seen(&samples[0]), [true, true]);
    assert_eq!(seen(samples.last().unwrap()), [false, true]);
    let third = Running::start(Command::new("sleep").arg("60"));
    sample_that(|| roots(&[third.pid()]), |sample| names(sample) == ["sleep"]);
}

#[test]
fn a_name_with_spaces_and_parentheses_is_read_whole() {
    let mut shell = Shell::start();
    let pid = shell.running.pid();
    shell.does("printf ') S 1 (' > /proc/$$/comm");
    let sample = sample_that(|| roots(&[pid]), |sample| names(sample) == [") S 1 ("]);
    assert_eq!(sample.processes[0].pid, pid);
}

#[test]
fn a_process_that_the_server_owns_is_counted_with_its_children_though_it_descends_from_none_of_its_roots() {
    const MARK: &str = "a-mark-of-this-test-alone";
    // The child ends with its input, which ends with the shell.
    let owned = Running::start(
        Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 & wait", MARK])
            .stdin(Stdio::piped()),
    );
    let stranger = Running::start(Command::new("sleep").arg("60"));
    let named = || Named {
        word: Some(MARK),
        ..Named::default()
    };
    let sample = sample_that(named, |sample| names(sample) == ["sh", "cat"]);
    assert_eq!(sample.processes[0].pid, owned.pid());
    assert_eq!(process(&sample, stranger.pid()), None);
}

#[test]
fn a_server_without_processes_here_is_told_so() {
    let watch = watch(Named::default());
    thread::sleep(2 * INTERVAL);
    let (record, samples) = watch.stop();
    assert!(
        samples
            .iter()
            .all(|sample| sample.charged().is_none() && sample.available.is_some())
    );
    assert_eq!(
        record.unknown,
        ["memory of the server: no process of it was seen on this machine"]
    );
    assert_eq!(record.holder, None);
}

#[test]
fn memory_of_other_users_is_told_once_to_be_unknown() {
    // The first process belongs to root everywhere.
    if std::fs::read("/proc/1/smaps_rollup").is_ok_and(|text| !text.is_empty()) {
        skip::because("this user may read every process");
        return;
    }
    let watch = watch(roots(&[1]));
    // Every process descends from it, so that one sample can take many intervals.
    thread::sleep(50 * INTERVAL);
    let (record, samples) = watch.stop();
    let first = process(&samples[0], 1).unwrap();
    assert_eq!(first.proportional, None);
    let about_first = record.unknown.iter().filter(|reason| reason.contains("(1)"));
    assert_eq!(about_first.count(), 1, "{:?}", record.unknown);
}

#[test]
fn ticks_that_are_overrun_are_counted_and_the_grid_is_kept() {
    const DELAY_MS: u64 = 55;
    let slow = Named {
        delay: Duration::from_millis(DELAY_MS),
        ..roots(&[std::process::id()])
    };
    let watch = watch(slow);
    thread::sleep(Duration::from_millis(300));
    let (record, samples) = watch.stop();
    // Each sample takes more than five ticks, which fall due meanwhile.
    assert!(record.missed >= 5 * record.taken, "{record:?}");
    for (number, sample) in samples.iter().enumerate() {
        // At 0, 60, 120 ms and so on, or later where the machine is busy.
        assert!(sample.at >= 0.060 * number as f64, "{number} at {}", sample.at);
    }
}

#[test]
fn no_thread_is_left_after_a_stop_or_a_drop() {
    let processes: Arc<dyn Processes> = Arc::new(roots(&[std::process::id()]));
    let start = || MemoryWatch::start(Arc::clone(&processes), Clock::start(), Duration::from_hours(1));
    let watch = start();
    let began = Instant::now();
    let (record, samples) = watch.stop();
    assert_eq!((record.taken, samples.len()), (1, 1));
    // The thread held the other reference.
    assert_eq!(Arc::strong_count(&processes), 1);
    drop(start());
    assert_eq!(Arc::strong_count(&processes), 1);
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "the next sample was waited for"
    );
}

/// Fails when it is asked.
struct Broken;

impl Processes for Broken {
    fn roots(&self) -> Vec<u32> {
        panic!("on purpose")
    }
}

#[test]
fn a_watch_that_fails_says_so_instead_of_having_seen_nothing() {
    let watch = MemoryWatch::start(Arc::new(Broken), Clock::start(), INTERVAL);
    let (record, samples) = watch.stop();
    assert!(samples.is_empty());
    assert_eq!(
        record.unknown,
        ["memory was not watched to the end: the thread that does it failed"]
    );
}
