//! Many short requests, one after the other: whether memory grows with them.

use super::requests::load_for_prompts;
use super::thresholds::LEAK_ANSWER_TOKENS;
use super::{Order, Scenario, Stage, Stop};
use crate::compare::servers::LoadRequest;
use crate::compare::{Failure, FailureKind, Plan};

/// Whether caches of earlier prompts are kept, and the group of the requests; each has a load of its own.
const STATES: [(bool, &str); 2] = [(true, "leak-cache-on"), (false, "leak-cache-off")];

/// Subjects of the requests, which differ so that no two answers are alike.
const SUBJECTS: [&str; 8] = [
    "a river", "a clock", "the moon", "bread", "a violin", "snow", "a bridge", "a fox",
];

pub(super) struct MemoryLeak;

impl Scenario for MemoryLeak {
    fn name(&self) -> &'static str {
        "memory-leak"
    }

    fn summary(&self) -> &'static str {
        "many short requests one after the other, with caches of prompts on and off: whether memory grows"
    }

    /// Once: every request is a repeat already.
    fn rounds(&self, _plan: &Plan) -> usize {
        1
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        load_for_prompts(plan, 1)
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        let mut refusals = Vec::new();
        for (prompt_cache, group) in STATES {
            match self.measure(stage, prompt_cache, group) {
                Err(failure) if failure.kind == FailureKind::Unsupported => {
                    stage.note(format!("`{group}` is not measured: {failure}"));
                    refusals.push(failure);
                }
                other => other?,
            }
        }
        match refusals.pop() {
            Some(failure) if refusals.len() + 1 == STATES.len() => Err(failure.into()),
            _ => Ok(()),
        }
    }
}

impl MemoryLeak {
    fn measure(&self, stage: &mut Stage<'_>, prompt_cache: bool, group: &str) -> Result<(), Failure> {
        let plan = stage.plan();
        stage.load(&LoadRequest {
            prompt_cache,
            ..self.needs(plan)
        })?;
        stage.warm_up()?;
        stage.phase(group, |stage| {
            for (number, subject) in SUBJECTS.iter().cycle().take(plan.leak_requests).enumerate() {
                let order = Order {
                    prompt: format!("Question {number}: describe {subject} in one sentence."),
                    answer_tokens: LEAK_ANSWER_TOKENS.min(plan.answer_tokens),
                };
                stage.ask(group, &order)?;
                stage.settle()?;
            }
            Ok(())
        })?;
        stage.unload()
    }
}
