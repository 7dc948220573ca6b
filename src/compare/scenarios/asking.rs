//! The threads that ask: so many at one time, or one for each request when it is due.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::stage::{Setting, may_go_on};
use super::thresholds::{NAP_MS, ROOM_NAP_MS};
use crate::compare::client::{Answer, ChatRequest, Clock};
use crate::compare::servers::Server;
use crate::compare::{Failure, FailureKind, Plan};
use crate::interrupt::Interrupt;

/// One answer, and when it was due.
pub(super) struct Answered {
    pub(super) index: usize,
    pub(super) due: f64,
    pub(super) answer: Answer,
}

/// What the threads that ask have in common.
pub(super) struct Asking<'stage> {
    server: &'stage dyn Server,
    requests: &'stage [ChatRequest],
    /// Seconds since the test began at which each request is due; `None` where it is due as soon as a thread is free.
    due: Option<Vec<f64>>,
    clock: Clock,
    plan: &'stage Plan,
    interrupt: &'stage Interrupt,
    next: AtomicUsize,
    is_gone: AtomicBool,
    answers: Mutex<Vec<Answered>>,
}

/// Whether a failure says that nobody serves any more.
pub(super) fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        FailureKind::Died | FailureKind::Unreachable | FailureKind::NotStarted
    )
}

impl<'stage> Asking<'stage> {
    /// Of requests that are due at these times, seconds by the clock of the test, or whenever a thread is free.
    pub(super) fn new(
        setting: &'stage Setting<'_>,
        clock: Clock,
        requests: &'stage [ChatRequest],
        due: Option<Vec<f64>>,
    ) -> Self {
        Self {
            server: setting.server.as_ref(),
            requests,
            due,
            clock,
            plan: setting.plan,
            interrupt: setting.interrupt,
            next: AtomicUsize::new(0),
            is_gone: AtomicBool::new(false),
            answers: Mutex::new(Vec::new()),
        }
    }

    /// Every answer, in the order in which they were due.
    pub(super) fn answers(self) -> Vec<Answered> {
        let mut answers = self.answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.sort_by(|left, right| left.due.total_cmp(&right.due).then(left.index.cmp(&right.index)));
        answers
    }

    /// Works on this thread where one is enough, else on so many.
    pub(super) fn on_threads(&self, count: usize) -> Result<(), Failure> {
        if count <= 1 {
            self.work();
            return Ok(());
        }
        thread::scope(|scope| {
            for _ in 0..count {
                self.begin(scope, || self.work())?;
            }
            Ok(())
        })
    }

    /// Asks each request on a thread of its own that begins when it is due, `most` at one time.
    pub(super) fn when_due(&self, most: usize) -> Result<(), Failure> {
        let under_way = AtomicUsize::new(0);
        thread::scope(|scope| {
            for index in 0..self.requests.len() {
                let Some(due) = self.wait_for(index) else { break };
                while under_way.load(Ordering::SeqCst) >= most {
                    if !self.may_go_on() {
                        return Ok(());
                    }
                    thread::sleep(Duration::from_millis(ROOM_NAP_MS));
                }
                under_way.fetch_add(1, Ordering::SeqCst);
                let under_way = &under_way;
                self.begin(scope, move || {
                    self.ask(index, due);
                    under_way.fetch_sub(1, Ordering::SeqCst);
                })?;
            }
            Ok(())
        })
    }

    /// Begins a thread.
    fn begin<'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce() + Send + 'scope,
    ) -> Result<(), Failure> {
        let thread = thread::Builder::new().name("request".to_owned());
        let begun = thread.spawn_scoped(scope, work);
        begun.map(|_| ()).map_err(|error| {
            // Those that run already come to an end.
            self.is_gone.store(true, Ordering::SeqCst);
            Failure {
                kind: FailureKind::NotStarted,
                reason: format!("requests at one time need as many threads: {error}"),
                hint: None,
            }
        })
    }

    /// Asks one request after the other until none is left.
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::SeqCst);
            if index >= self.requests.len() {
                return;
            }
            let Some(due) = self.wait_for(index) else { return };
            self.ask(index, due);
        }
    }

    /// Asks one request.
    fn ask(&self, index: usize, due: f64) {
        let Some(request) = self.requests.get(index) else {
            return;
        };
        let answer = self.server.ask(request, self.clock);
        if answer.failure.as_ref().is_some_and(is_gone) {
            self.is_gone.store(true, Ordering::SeqCst);
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(Answered { index, due, answer });
    }

    fn may_go_on(&self) -> bool {
        may_go_on(self.clock, self.plan, self.interrupt).is_ok() && !self.is_gone.load(Ordering::SeqCst)
    }

    /// Waits until a request is due; returns when that is, or `None` where it need not be asked any more.
    fn wait_for(&self, index: usize) -> Option<f64> {
        let due = match &self.due {
            Some(due) => *due.get(index)?,
            None => self.clock.now(),
        };
        loop {
            if !self.may_go_on() {
                return None;
            }
            match Duration::try_from_secs_f64(due - self.clock.now()) {
                Ok(left) if !left.is_zero() => thread::sleep(left.min(Duration::from_millis(NAP_MS))),
                // It is negative.
                _ => return Some(due),
            }
        }
    }
}
