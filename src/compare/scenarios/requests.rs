//! Asking the server on a stage: one request, or several at one time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::stage::may_go_on;
use super::thresholds::{
    CONTEXT_STEP, KEPT_CHARACTERS, LEAST_BYTES_PER_TOKEN, LEAST_CONTEXT, NAP_MS, TEMPLATE_ROOM, UNASKED_TOKENS,
};
use super::{Arrivals, Progress, Stage};
use crate::compare::client::{Answer, ChatMessage, ChatRequest, Clock};
use crate::compare::servers::{LoadRequest, Server};
use crate::compare::{Failure, FailureKind, Plan, RequestRecord};
use crate::interrupt::Interrupt;

/// Group of requests before the measured ones.
const WARM_UP: &str = "warm-up";
/// Group of requests that only find out what a server can do; it counts as warm-up.
pub(super) const PROBE: &str = "warm-up-probe";

/// What the model is told before every question.
const SYSTEM_MESSAGE: &str = "You are a helpful assistant.";

/// What a server's message has in it where it refuses a system message: Gemma's template says `System role not supported`.
const SYSTEM_WORDS: [&str; 2] = ["system", "role"];
/// The detail that tells by which name a model answered.
const ANSWERED_AS: &str = "answered-as";

/// What the model is told with a number that makes the prompt new from its beginning.
pub(super) fn system_message(nonce: &str) -> String {
    format!("{nonce}. {SYSTEM_MESSAGE}")
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The user's message.
    pub prompt: String,
    /// Longest answer in tokens.
    pub answer_tokens: usize,
}

impl Order {
    /// The plan's prompts in turn, the first first.
    pub fn in_turn(plan: &Plan, count: usize) -> Vec<Self> {
        let order = |prompt: &String| Self {
            prompt: prompt.clone(),
            answer_tokens: plan.answer_tokens,
        };
        plan.prompts.iter().cycle().take(count).map(order).collect()
    }
}

/// What a model is loaded with to answer the plan's prompts, so many at one time, with caches of prompts as users have them.
pub(super) fn load_for_prompts(plan: &Plan, parallel: usize) -> LoadRequest {
    let longest = plan.prompts.iter().map(String::len).max().unwrap_or(0);
    let needed = longest / LEAST_BYTES_PER_TOKEN + plan.answer_tokens + TEMPLATE_ROOM;
    LoadRequest {
        context_length: needed.max(LEAST_CONTEXT).next_multiple_of(CONTEXT_STEP),
        parallel,
        prompt_cache: true,
    }
}

/// One answer, and when it was due.
struct Answered {
    index: usize,
    due: f64,
    answer: Answer,
}

/// What the threads that ask have in common.
struct Asking<'stage> {
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

impl Stage<'_> {
    /// Asks the plan's prompts that come before the measured ones, as the phase `warm-up`.
    ///
    /// # Errors
    /// The server is gone, or there is no time left.
    pub fn warm_up(&mut self) -> Result<(), Failure> {
        let orders = Order::in_turn(self.plan(), self.plan().warm_ups);
        self.phase(WARM_UP, |stage| stage.ask_all(WARM_UP, &orders, &Arrivals::AtOnce(1)))
    }

    /// Asks one thing and waits for the answer, which is recorded even where it failed.
    ///
    /// # Errors
    /// The server is gone, or there is no time left.
    pub fn ask(&mut self, group: &str, order: &Order) -> Result<&RequestRecord, Failure> {
        self.ask_all(group, std::slice::from_ref(order), &Arrivals::AtOnce(1))?;
        self.test.requests.last().ok_or_else(|| Failure {
            kind: FailureKind::Empty,
            reason: "no request was sent".to_owned(),
            hint: None,
        })
    }

    /// Asks everything, `arrivals` saying when, and waits for all answers; those that failed are recorded too.
    ///
    /// Some chat templates refuse system messages: where the first requests of a test are all refused for one, they are asked
    /// again with what makes their prompts new in front of the question. Where that is answered, it stays so.
    ///
    /// # Errors
    /// The server is gone, or there is no time left.
    pub fn ask_all(&mut self, group: &str, orders: &[Order], arrivals: &Arrivals) -> Result<(), Failure> {
        let first = self.test.requests.len();
        let refusal = self.ask_once(group, orders, arrivals)?;
        if self.takes_system.is_some() || orders.is_empty() {
            return Ok(());
        }
        let Some(refusal) = refusal else {
            self.takes_system = Some(true);
            return Ok(());
        };
        for request in self.test.requests.get_mut(first..).unwrap_or_default() {
            PROBE.clone_into(&mut request.group);
        }
        let second = self.test.requests.len();
        self.takes_system = Some(false);
        let asked = self.ask_once(group, orders, arrivals);
        let again = self.test.requests.get(second..).unwrap_or_default();
        if again.iter().any(|request| request.failure.is_none()) {
            self.note(format!(
                "requests have no system message since those with one were refused: {refusal}"
            ));
        } else {
            // It was not for the system message, and both formats are to be asked the same.
            self.takes_system = Some(true);
        }
        asked.map(|_| ())
    }

    /// Asks everything; returns why all of it was refused where that may be for the system message.
    fn ask_once(&mut self, group: &str, orders: &[Order], arrivals: &Arrivals) -> Result<Option<Failure>, Failure> {
        self.may_go_on()?;
        let requests: Vec<ChatRequest> = orders.iter().map(|order| self.request(order)).collect();
        let (threads, concurrency, due) = match arrivals {
            Arrivals::AtOnce(at_once) => (*at_once, *at_once, None),
            Arrivals::Due(times) => {
                let now = self.now();
                let most = self.plan().concurrency.iter().copied().max().unwrap_or(1);
                (
                    requests.len(),
                    most,
                    Some(times.iter().map(|time| now + time).collect()),
                )
            }
        };
        let asking = Asking {
            server: self.setting.server.as_ref(),
            requests: &requests,
            due,
            clock: self.clock,
            plan: self.setting.plan,
            interrupt: self.setting.interrupt,
            next: AtomicUsize::new(0),
            is_gone: AtomicBool::new(false),
            answers: Mutex::new(Vec::new()),
        };
        let started = asking.on_threads(threads.min(requests.len()));
        let mut answers = asking.answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.sort_by(|left, right| left.due.total_cmp(&right.due).then(left.index.cmp(&right.index)));
        let gone = answers
            .iter()
            .filter_map(|answered| answered.answer.failure.clone())
            .find(is_gone);
        let refusals: Option<Vec<Failure>> = answers
            .iter()
            .map(|answered| refusal_of_system(&answered.answer))
            .collect();
        for mut answered in answers {
            if let Some(request) = requests.get(answered.index) {
                self.check_length(&mut answered.answer, request.max_tokens);
            }
            self.record(group, concurrency, answered);
        }
        started?;
        self.may_go_on()?;
        let first_refusal = refusals.and_then(|refusals| refusals.into_iter().next());
        gone.map_or(Ok(first_refusal), Err)
    }

    fn request(&mut self, order: &Order) -> ChatRequest {
        let nonce = self.nonces.next();
        let message = |role, content| ChatMessage { role, content };
        let messages = match self.takes_system {
            Some(false) => vec![message("user", format!("{nonce}. {}", order.prompt))],
            Some(true) | None => vec![
                message("system", system_message(&nonce)),
                message("user", order.prompt.clone()),
            ],
        };
        ChatRequest {
            messages,
            max_tokens: order.answer_tokens,
            more: Vec::new(),
        }
    }

    /// Notes answers that are longer than was asked for, and leaves out counts that no answer of that text can have.
    fn check_length(&mut self, answer: &mut Answer, most: usize) {
        let bytes = answer.text.len();
        // A token that is shown has a byte at least; one that is not counts among those that were asked for.
        let cannot_be = |count: usize| count > most + UNASKED_TOKENS && count > bytes;
        let Some(usage) = answer.usage else { return };
        let count = usage.completion_tokens;
        if cannot_be(count) {
            self.note(format!(
                "the server counted {count} tokens in an answer of {bytes} bytes for which {most} tokens were asked: what it \
                 counts is left out where that cannot be"
            ));
            answer.usage = None;
            if let Some(timings) = &mut answer.timings {
                timings.generated_tokens = timings.generated_tokens.filter(|count| !cannot_be(*count));
            }
        } else if count > most + UNASKED_TOKENS {
            self.note(format!(
                "the server does not keep to the length of answers: {count} tokens by its own count where {most} were asked for"
            ));
        }
    }

    fn record(&mut self, group: &str, concurrency: usize, answered: Answered) {
        let Answered { due, answer, .. } = answered;
        if let (Some(other), Some(server)) = (&answer.other_model, &mut self.test.server) {
            server.details.insert(ANSWERED_AS.to_owned(), other.clone());
            let asked = server.model.clone();
            self.note(format!(
                "`{asked}` was asked, and the server names `{other}` as the model that answered: another name of it, or another model"
            ));
        }
        let counted_tokens = match self.counter().map(|counter| counter.count(&answer.text)) {
            Some(Ok(count)) => Some(count),
            Some(Err(reason)) => {
                self.note(format!("an answer's tokens could not be counted here: {reason}"));
                None
            }
            None => None,
        };
        let record = RequestRecord {
            group: group.to_owned(),
            concurrency,
            due,
            times: answer.times,
            characters: answer.text.chars().count(),
            text: answer.text.chars().take(KEPT_CHARACTERS).collect(),
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            counted_tokens,
            timings: answer.timings,
            failure: answer.failure,
        };
        (self.setting.progress)(Progress::Request(&record));
        self.test.requests.push(record);
    }
}

/// Whether a failure says that nobody serves any more.
fn is_gone(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        FailureKind::Died | FailureKind::Unreachable | FailureKind::NotStarted
    )
}

/// The failure of a request that may have been refused for its system message: a status that says that the request is at fault,
/// or any other failure that names it. A missing key or a server that is too busy is none.
fn refusal_of_system(answer: &Answer) -> Option<Failure> {
    let failure = answer.failure.as_ref()?;
    let reason = failure.reason.to_lowercase();
    let may_be = match answer.status {
        Some(400 | 422) => true,
        Some(401 | 403 | 407 | 408 | 429) => false,
        _ => SYSTEM_WORDS.iter().any(|word| reason.contains(word)),
    };
    let is_answer = matches!(failure.kind, FailureKind::Refused | FailureKind::ServerError);
    (may_be && is_answer).then(|| failure.clone())
}

impl Asking<'_> {
    /// Works on this thread where one is enough, else on so many.
    fn on_threads(&self, count: usize) -> Result<(), Failure> {
        if count <= 1 {
            self.work();
            return Ok(());
        }
        thread::scope(|scope| {
            for number in 0..count {
                let thread = thread::Builder::new().name(format!("request-{number}"));
                thread.spawn_scoped(scope, || self.work()).map_err(|error| {
                    // Those that run already come to an end.
                    self.is_gone.store(true, Ordering::SeqCst);
                    Failure {
                        kind: FailureKind::NotStarted,
                        reason: format!("{count} requests at one time need as many threads: {error}"),
                        hint: None,
                    }
                })?;
            }
            Ok(())
        })
    }

    /// Asks one request after the other until none is left.
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(request) = self.requests.get(index) else {
                return;
            };
            let Some(due) = self.wait_for(index) else { return };
            let answer = self.server.ask(request, self.clock);
            if answer.failure.as_ref().is_some_and(is_gone) {
                self.is_gone.store(true, Ordering::SeqCst);
            }
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push(Answered { index, due, answer });
        }
    }

    /// Waits until a request is due; returns when that is, or `None` where it need not be asked any more.
    fn wait_for(&self, index: usize) -> Option<f64> {
        let due = match &self.due {
            Some(due) => *due.get(index)?,
            None => self.clock.now(),
        };
        loop {
            let may_go_on = may_go_on(self.clock, self.plan, self.interrupt).is_ok();
            if !may_go_on || self.is_gone.load(Ordering::SeqCst) {
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
