//! The scheduler against a model of its own: sets of requests and sums of tokens.

use std::collections::{BTreeMap, BTreeSet};

use mlx_diagnose::engine::{
    Refusal, RequestId, Scheduler, SchedulerLimits, SchedulerLimitsError, SequenceDemand, Stage, StepPlan, Trace,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_sequences: 4,
    step_tokens: 16,
    prefill_chunk: 8,
    cache_tokens: 1000,
    max_waiting: 100,
    max_overtakings: 3,
};

fn demand(prompt_tokens: usize, max_tokens: usize) -> SequenceDemand {
    SequenceDemand {
        prompt_tokens,
        max_tokens,
        already_cached: 0,
        priority: 0,
    }
}

fn scheduler(limits: SchedulerLimits) -> Scheduler {
    Scheduler::new(limits).unwrap()
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<RequestId> {
    numbers.into_iter().map(RequestId).collect()
}

/// A request as the model sees it: only from what was asked and from what the plans say.
#[derive(Debug)]
struct Expected {
    demand: SequenceDemand,
    overtaken: usize,
    read: usize,
    generated: usize,
}

impl Expected {
    fn reserves(&self) -> usize {
        self.demand.prompt_tokens + self.demand.max_tokens
    }

    fn is_complete(&self) -> bool {
        self.generated == self.demand.max_tokens
    }
}

/// Numbers grow with the time of submission.
struct Model {
    limits: SchedulerLimits,
    scheduler: Scheduler,
    waiting: BTreeMap<RequestId, Expected>,
    /// In the order of admission.
    running: Vec<(RequestId, Expected)>,
    ended: BTreeSet<RequestId>,
    submitted: u64,
}

impl Model {
    fn new(limits: SchedulerLimits) -> Self {
        Self {
            limits,
            scheduler: scheduler(limits),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            ended: BTreeSet::new(),
            submitted: 0,
        }
    }

    fn submit(&mut self, demand: SequenceDemand) {
        let id = RequestId(self.submitted);
        self.submitted += 1;
        let needed = demand.prompt_tokens + demand.max_tokens;
        let expected = if needed > self.limits.cache_tokens {
            Err(Refusal::NeverFits {
                needed,
                available: self.limits.cache_tokens,
            })
        } else if self.waiting.len() == self.limits.max_waiting {
            Err(Refusal::QueueFull {
                waiting: self.waiting.len(),
            })
        } else {
            let request = Expected {
                demand,
                overtaken: 0,
                read: demand.already_cached,
                generated: 0,
            };
            self.waiting.insert(id, request);
            Ok(())
        };
        assert_eq!(self.scheduler.submit(id, demand), expected);
        if expected.is_ok() {
            assert_eq!(self.scheduler.submit(id, demand), Err(Refusal::Duplicate { id }));
        }
    }

    /// Ends a request in either way; a second end of either kind finds nothing.
    fn end(&mut self, id: RequestId, by_cancel: bool) {
        let stage = if self.waiting.contains_key(&id) {
            Some(Stage::Waiting)
        } else {
            let runs = self.running.iter().any(|(running, _)| *running == id);
            runs.then_some(Stage::Running)
        };
        if by_cancel {
            assert_eq!(self.scheduler.cancel(id), stage);
        } else {
            assert_eq!(self.scheduler.finish(id), stage == Some(Stage::Running));
            if stage == Some(Stage::Waiting) {
                return;
            }
        }
        self.waiting.remove(&id);
        self.running.retain(|(running, _)| *running != id);
        if stage.is_some() {
            assert!(self.ended.insert(id), "{id} ended twice");
        }
        assert_eq!(self.scheduler.cancel(id), None);
        assert!(!self.scheduler.finish(id));
    }

    /// Who is next: the oldest of those that were overtaken often enough, else the oldest of the highest priority.
    fn next(&self) -> Option<RequestId> {
        let is_due = |request: &Expected| request.overtaken >= self.limits.max_overtakings;
        if let Some((id, _)) = self.waiting.iter().find(|(_, request)| is_due(request)) {
            return Some(*id);
        }
        let highest = self.waiting.values().map(|request| request.demand.priority).max()?;
        let mut waiting = self.waiting.iter();
        waiting
            .find(|(_, request)| request.demand.priority == highest)
            .map(|(id, _)| *id)
    }

    fn room_for(&self, id: RequestId) -> bool {
        let reserved: usize = self.running.iter().map(|(_, request)| request.reserves()).sum();
        self.running.len() < self.limits.max_sequences
            && reserved + self.waiting[&id].reserves() <= self.limits.cache_tokens
    }

    fn admit(&mut self, id: RequestId) {
        assert_eq!(self.next(), Some(id));
        assert!(self.room_for(id), "{id} does not fit");
        let request = self.waiting.remove(&id).unwrap();
        for earlier in self.waiting.range_mut(..id).map(|(_, request)| request) {
            earlier.overtaken += 1;
            assert!(earlier.overtaken <= self.limits.max_overtakings);
        }
        self.running.push((id, request));
    }

    /// Plans a step and holds it to every promise; sequences that are complete are finished.
    fn step(&mut self) -> StepPlan {
        let plan = self.scheduler.plan();
        for id in &plan.admitted {
            self.admit(*id);
        }
        if let Some(next) = self.next() {
            assert!(!self.room_for(next), "{next} was left waiting beside free room");
        }
        let decoding = |request: &Expected| request.read == request.demand.prompt_tokens;
        let decode: Vec<RequestId> = self
            .running
            .iter()
            .filter(|(_, request)| decoding(request))
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(plan.decode, decode, "every running sequence decodes in every step");
        let mut budget = self.limits.step_tokens - decode.len();
        let mut chunks = plan.prefill.iter();
        for (id, request) in &mut self.running {
            if decoding(request) {
                request.generated += 1;
                continue;
            }
            let left = request.demand.prompt_tokens - request.read;
            let tokens = left.min(self.limits.prefill_chunk).min(budget);
            if tokens == 0 {
                continue;
            }
            budget -= tokens;
            let chunk = chunks.next().unwrap();
            assert_eq!(
                (chunk.id, chunk.start, chunk.end),
                (*id, request.read, request.read + tokens)
            );
            assert_eq!(chunk.is_last, tokens == left);
            request.read = chunk.end;
            request.generated = usize::from(chunk.is_last);
        }
        assert_eq!(chunks.next(), None);
        assert!(plan.tokens() <= self.limits.step_tokens);
        let complete: Vec<RequestId> = self
            .running
            .iter()
            .filter(|(_, request)| request.is_complete())
            .map(|(id, _)| *id)
            .collect();
        for id in complete {
            self.end(id, false);
        }
        plan
    }

    fn check_counts(&self) {
        let reserved: usize = self.running.iter().map(|(_, request)| request.reserves()).sum();
        assert!(reserved <= self.limits.cache_tokens);
        assert_eq!(self.scheduler.reserved_tokens(), reserved);
        assert_eq!(self.scheduler.running(), self.running.len());
        assert_eq!(self.scheduler.waiting(), self.waiting.len());
    }

    /// Every step that has something to do does at least one token of it.
    fn drain(&mut self) {
        while !(self.waiting.is_empty() && self.running.is_empty()) {
            assert!(self.step().tokens() > 0, "stuck");
            self.check_counts();
        }
        assert!(self.step().is_idle());
    }
}

#[derive(Debug, Clone)]
enum Action {
    Submit(SequenceDemand),
    Cancel(u64),
    Finish(u64),
    Step,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let demand =
        (1_usize..40, 1_usize..20, 0_usize..40, -2..3_i32).prop_map(|(prompt, max_tokens, cached, priority)| {
            SequenceDemand {
                already_cached: cached % prompt,
                priority,
                ..demand(prompt, max_tokens)
            }
        });
    let action = prop_oneof![
        3 => demand.prop_map(Action::Submit),
        1 => any::<u64>().prop_map(Action::Cancel),
        1 => any::<u64>().prop_map(Action::Finish),
        4 => Just(Action::Step),
    ];
    prop::collection::vec(action, 0..120)
}

fn limits() -> impl Strategy<Value = SchedulerLimits> {
    (
        1_usize..6,
        0_usize..20,
        1_usize..12,
        20_usize..150,
        1_usize..12,
        0_usize..5,
    )
        .prop_map(
            |(max_sequences, beyond, prefill_chunk, cache_tokens, max_waiting, max_overtakings)| SchedulerLimits {
                max_sequences,
                step_tokens: max_sequences + beyond,
                prefill_chunk,
                cache_tokens,
                max_waiting,
                max_overtakings,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_request_ends_once_within_the_budgets_whatever_comes(limits in limits(), actions in actions()) {
        let mut model = Model::new(limits);
        for action in actions {
            match action {
                Action::Submit(demand) => model.submit(demand),
                Action::Cancel(which) => model.end(RequestId(which % (model.submitted + 1)), true),
                Action::Finish(which) => model.end(RequestId(which % (model.submitted + 1)), false),
                Action::Step => {
                    model.step();
                }
            }
            model.check_counts();
        }
        model.drain();
    }
}

#[test]
fn a_late_joiner_gets_its_first_token_after_its_own_prefill() {
    let limits = SchedulerLimits {
        step_tokens: LIMITS.max_sequences + LIMITS.prefill_chunk,
        ..LIMITS
    };
    for prompt in [1, 7, 8, 9, 64, 65] {
        let mut scheduler = scheduler(limits);
        for id in ids(0..3) {
            scheduler.submit(id, demand(5, 200)).unwrap();
        }
        for _ in 0..20 {
            scheduler.plan();
        }
        let joiner = RequestId(3);
        scheduler.submit(joiner, demand(prompt, 10)).unwrap();
        let joined_after = scheduler.trace().plans().len();
        for _ in 0..20 {
            scheduler.plan();
        }
        let later: Vec<&StepPlan> = scheduler.trace().plans().skip(joined_after).collect();
        let first_token = later
            .iter()
            .position(|plan| plan.prefill.iter().any(|chunk| chunk.id == joiner && chunk.is_last));
        let own_prefill = prompt.div_ceil(limits.prefill_chunk);
        assert_eq!(first_token, Some(own_prefill - 1), "prompt of {prompt}");
        for (step, plan) in later.iter().enumerate() {
            let expected = if step < own_prefill { ids(0..3) } else { ids(0..4) };
            if step < own_prefill + 9 {
                assert_eq!(plan.decode, expected, "nobody waits for the joiner, step {step}");
            }
        }
    }
}

#[test]
fn a_small_request_does_not_overtake_a_large_one_that_has_to_wait() {
    let mut scheduler = scheduler(SchedulerLimits {
        cache_tokens: 100,
        ..LIMITS
    });
    scheduler.submit(RequestId(0), demand(10, 50)).unwrap();
    scheduler.submit(RequestId(1), demand(10, 80)).unwrap();
    scheduler.submit(RequestId(2), demand(1, 1)).unwrap();
    assert_eq!(scheduler.plan().admitted, ids([0]));
    assert!(scheduler.plan().admitted.is_empty());
    assert_eq!(scheduler.cancel(RequestId(0)), Some(Stage::Running));
    assert_eq!(scheduler.plan().admitted, ids([1, 2]));
}

#[test]
fn a_low_priority_waits_for_a_bounded_number_of_later_requests() {
    let mut scheduler = scheduler(SchedulerLimits {
        max_sequences: 1,
        ..LIMITS
    });
    let urgent = SequenceDemand {
        priority: 5,
        ..demand(4, 1)
    };
    scheduler.submit(RequestId(0), demand(4, 1)).unwrap();
    let mut order = Vec::new();
    for next in 1..8 {
        scheduler.submit(RequestId(next), urgent).unwrap();
        let admitted = scheduler.plan().admitted;
        assert!(scheduler.finish(admitted[0]));
        order.extend(admitted);
    }
    assert_eq!(order, ids([1, 2, 3, 0, 4, 5, 6]));
}

#[test]
fn a_reused_beginning_is_not_read_again_and_still_counts_as_held() {
    let mut scheduler = scheduler(LIMITS);
    let reused = SequenceDemand {
        already_cached: 18,
        ..demand(20, 5)
    };
    scheduler.submit(RequestId(0), reused).unwrap();
    let plan = scheduler.plan();
    assert_eq!((plan.prefill[0].start, plan.prefill[0].end), (18, 20));
    assert!(plan.prefill[0].is_last);
    assert_eq!(scheduler.reserved_tokens(), 25);
}

#[test]
fn a_request_that_needs_all_the_room_there_is_runs_and_one_that_needs_more_is_refused() {
    let mut scheduler = scheduler(SchedulerLimits {
        cache_tokens: 100,
        ..LIMITS
    });
    assert_eq!(scheduler.limits().cache_tokens, 100);
    let refusal = scheduler.submit(RequestId(0), demand(40, 61)).unwrap_err();
    let expected = Refusal::NeverFits {
        needed: 101,
        available: 100,
    };
    assert_eq!(refusal, expected);
    scheduler.submit(RequestId(0), demand(40, 60)).unwrap();
    assert_eq!((scheduler.waiting(), scheduler.running()), (1, 0));
    assert_eq!(scheduler.plan().admitted, ids([0]));
    assert_eq!((scheduler.waiting(), scheduler.running()), (0, 1));
    assert_eq!(scheduler.reserved_tokens(), 100);
}

#[test]
fn a_request_without_work_is_refused() {
    let mut scheduler = scheduler(LIMITS);
    let all_cached = SequenceDemand {
        already_cached: 4,
        ..demand(4, 4)
    };
    for nothing in [demand(0, 4), demand(4, 0), all_cached] {
        let refused = scheduler.submit(RequestId(0), nothing);
        assert!(matches!(refused, Err(Refusal::Nothing { .. })), "{refused:?}");
    }
    assert_eq!(scheduler.waiting(), 0);
    let endless = scheduler.submit(RequestId(0), demand(4, usize::MAX));
    assert!(matches!(endless, Err(Refusal::NeverFits { .. })), "{endless:?}");
}

#[test]
fn a_complete_answer_is_planned_no_more_until_it_is_finished() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(RequestId(0), demand(3, 2)).unwrap();
    assert!(scheduler.plan().prefill[0].is_last);
    assert_eq!(scheduler.plan().decode, ids([0]));
    assert!(scheduler.plan().is_idle());
    assert_eq!(scheduler.reserved_tokens(), 5);
    assert!(scheduler.finish(RequestId(0)));
    assert_eq!(scheduler.reserved_tokens(), 0);
}

#[test]
fn the_trace_keeps_the_last_steps_only() {
    let mut scheduler = scheduler(SchedulerLimits {
        cache_tokens: 10_000,
        ..LIMITS
    });
    scheduler.submit(RequestId(0), demand(1, 3000)).unwrap();
    for _ in 0..3000 {
        scheduler.plan();
    }
    let steps: Vec<u64> = scheduler.trace().plans().map(|plan| plan.step).collect();
    assert_eq!(steps, (3000 - 1024..3000).collect::<Vec<u64>>());
}

#[test]
fn a_trace_without_room_keeps_nothing() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(RequestId(0), demand(3, 2)).unwrap();
    let plan = scheduler.plan();
    let mut trace = Trace::new(0);
    trace.record(plan.clone());
    assert_eq!(trace.plans().len(), 0);
    let mut trace = Trace::new(1);
    trace.record(plan.clone());
    trace.record(plan);
    assert_eq!(trace.plans().len(), 1);
}

#[test]
fn limits_with_which_nothing_could_run_are_refused() {
    for zero in [
        SchedulerLimits {
            max_sequences: 0,
            ..LIMITS
        },
        SchedulerLimits {
            prefill_chunk: 0,
            ..LIMITS
        },
        SchedulerLimits {
            cache_tokens: 0,
            ..LIMITS
        },
        SchedulerLimits {
            max_waiting: 0,
            ..LIMITS
        },
    ] {
        assert!(
            matches!(zero.validate(), Err(SchedulerLimitsError::Zero { .. })),
            "{zero:?}"
        );
    }
    let narrow = SchedulerLimits {
        step_tokens: 3,
        ..LIMITS
    };
    insta::assert_snapshot!(narrow.validate().unwrap_err(), @r"
    a step has fewer tokens than sequences
      found: step_tokens 3
      expected: 4 or more, since every running sequence decodes in every step
      hint: raise `step_tokens` or lower `max_sequences`
    ");
}
