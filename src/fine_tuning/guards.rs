//! The rule book watches a run while it goes on.

use mlx_rs::error::Exception;

use crate::diagnosis::StepRecorder;
use crate::evidence::{Evidence, Listing, OptimizerEvidence, RanksEvidence, Slot, StoppedEarly, TrainingEvidence};
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::probes::parameters::ParameterProbe;
use crate::rules::{self, Severity};
use crate::train::{Optimizer, TrainingOutcome, TrainingStep};

/// Rules that can judge a run before its end, each with the updates it needs to see first.
///
/// The others judge what only a whole run shows, or a course that one unlucky batch can feign.
const WATCHING: [(&str, usize); 11] = [
    ("loss-not-finite", 0),
    ("gradients-not-flowing", 3),
    ("adapter-not-attached", 3),
    ("adapter-never-moved", 3),
    ("base-not-frozen", 3),
    ("same-data-on-every-rank", 3),
    ("gradients-not-averaged", 3),
    ("ranks-diverged", 1),
    ("optimizer-not-stepping", 3),
    ("parameters-unchanged", 3),
    // A loss of few batches may rise by chance.
    ("training-diverged", 20),
];

/// The rules on processes that train together.
const FAMILY_OF_RANKS: &str = "RANK";
/// Updates after which the parameters are compared, once.
const COMPARED_AFTER: usize = 5;

/// What the guards say.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing that could be judged yet is wrong.
    GoOn,
    /// The run cannot become good; the evidence says why.
    Stop(Box<Evidence>),
}

/// Evidence of a run that is going on.
pub struct Guards {
    evidence: Evidence,
    base: ParameterSnapshot,
    before: ParameterSnapshot,
    adapted: Option<Vec<String>>,
    steps: StepRecorder,
    planned_updates: usize,
}

impl Guards {
    /// Guards of a run of `model`, beginning with what was known before it.
    ///
    /// `base` is the model without what is trained, `adapted` the layers that carry adapters.
    pub fn new(evidence: Evidence, base: &CausalModel, model: &CausalModel, adapted: Option<Vec<String>>) -> Self {
        Self {
            planned_updates: evidence.settings.steps,
            evidence,
            base: ParameterSnapshot::capture(base),
            before: ParameterSnapshot::capture(model),
            adapted,
            steps: StepRecorder::new(model),
        }
    }

    /// Takes notice of one update.
    pub fn record(&mut self, step: &TrainingStep) {
        self.steps.record(step, 0);
    }

    /// Takes notice of what several processes did so far.
    pub fn hear_of(&mut self, ranks: RanksEvidence) {
        self.evidence.ranks = Slot::Ran(ranks);
    }

    /// What the rule book holds against the processes of the run, a line each.
    pub fn of_ranks(&self) -> Vec<String> {
        let causes = rules::diagnose(&self.evidence).causes;
        let of_ranks = |cause: &&rules::Cause| {
            cause.is_root() && cause.severity > Severity::Info && cause.rule.family() == FAMILY_OF_RANKS
        };
        causes
            .iter()
            .filter(of_ranks)
            .map(|cause| {
                format!(
                    "{}: {}; {}",
                    cause.rule.name, cause.finding.headline, cause.finding.found
                )
            })
            .collect()
    }

    /// Judges the run so far.
    pub fn judge(
        &mut self,
        model: &CausalModel,
        optimizer: &dyn Optimizer,
        outcome: Option<TrainingOutcome>,
    ) -> Result<Verdict, Exception> {
        let made = self.steps.steps.len();
        let stopped_early = match outcome {
            Some(outcome) => self.steps.stopped(outcome),
            None => (made < self.planned_updates).then(|| StoppedEarly {
                step: made + 1,
                reason: "the run goes on".to_owned(),
                found_in: Listing::numbered("row", std::iter::empty()),
            }),
        };
        self.evidence.settings.steps = made.max(1);
        self.evidence.training = Slot::Ran(self.training(model, optimizer, stopped_early)?);
        if made >= COMPARED_AFTER && self.evidence.parameters.ran().is_none() {
            let probe = ParameterProbe {
                base: &self.base,
                before: &self.before,
                expected_adapters: self.adapted.as_deref(),
                identity_difference: None,
                updates: &[],
            };
            self.evidence.parameters = Slot::Ran(probe.measure(model)?);
        }
        let diagnosis = rules::diagnose(&self.evidence);
        let is_reason = |cause: &rules::Cause| {
            cause.severity == Severity::Error
                && WATCHING
                    .iter()
                    .any(|(name, updates)| cause.rule.name == *name && made >= *updates)
        };
        if diagnosis.causes.iter().any(is_reason) {
            return Ok(Verdict::Stop(Box::new(self.evidence.clone())));
        }
        Ok(Verdict::GoOn)
    }

    fn training(
        &self,
        model: &CausalModel,
        optimizer: &dyn Optimizer,
        stopped_early: Option<StoppedEarly>,
    ) -> Result<TrainingEvidence, Exception> {
        const LATER: &str = "the run goes on";
        let steps = &self.steps.steps;
        Ok(TrainingEvidence {
            trainer: "reference".to_owned(),
            stopped_early,
            loss_check: Slot::skipped(LATER),
            gradient_check: Slot::skipped(LATER),
            optimizer_check: Slot::skipped(LATER),
            optimizer: OptimizerEvidence {
                name: optimizer.name().to_owned(),
                step_count: optimizer.step_count(),
                learning_rate_sum: steps.iter().map(|step| step.learning_rate).sum(),
            },
            gradients: self.steps.gradients(),
            trainable_values: ParameterSnapshot::capture_trainable(model).values(),
            tokens_per_second: self.steps.tokens_per_second(),
            peak_memory: mlx_rs::memory::peak_memory()? as u64,
            seconds: steps.iter().map(|step| step.seconds).sum(),
            steps: steps.clone(),
        })
    }
}
