//! Asking the server on a stage: one request, or several at one time.

use super::asking::{Answered, Asking, is_gone};
use super::thresholds::{
    CONTEXT_STEP, KEPT_CHARACTERS, LATE, LEAST_BYTES_PER_TOKEN, LEAST_CONTEXT, MOST_UNDER_WAY, TEMPLATE_ROOM,
    UNASKED_TOKENS,
};
use super::{Arrivals, Progress, Stage};
use crate::compare::client::{Answer, ChatMessage, ChatRequest};
use crate::compare::servers::LoadRequest;
use crate::compare::{Failure, FailureKind, Plan, RequestRecord};

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
        let (concurrency, due) = match arrivals {
            Arrivals::AtOnce(at_once) => (*at_once, None),
            Arrivals::Due(times) => {
                let now = self.now();
                let most = self.plan().concurrency.iter().copied().max().unwrap_or(1);
                (most, Some(times.iter().map(|time| now + time).collect()))
            }
        };
        let asking = Asking::new(&self.setting, self.clock, &requests, due);
        let started = match arrivals {
            Arrivals::AtOnce(at_once) => asking.on_threads((*at_once).min(requests.len())),
            Arrivals::Due(_) => asking.when_due(MOST_UNDER_WAY),
        };
        let answers = asking.answers();
        let gone = answers
            .iter()
            .filter_map(|answered| answered.answer.failure.clone())
            .find(is_gone);
        if let Arrivals::Due(_) = arrivals {
            self.note_late(&answers);
        }
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

    /// Notes where it was this program that was late, and not the server.
    fn note_late(&mut self, answers: &[Answered]) {
        let delays = answers.iter().map(|answered| answered.answer.times.sent - answered.due);
        let late: Vec<f64> = delays.filter(|delay| *delay > LATE).collect();
        if late.is_empty() {
            return;
        }
        let longest = late.iter().copied().fold(0.0, f64::max);
        self.note(format!(
            "{} of {} requests were sent later than they were due, by {longest:.1} s at most, since {MOST_UNDER_WAY} were under way \
             or this machine was too busy; their latencies count from when they were due",
            late.len(),
            answers.len()
        ));
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
