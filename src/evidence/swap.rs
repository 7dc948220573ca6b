use serde::{Deserialize, Serialize};

use super::{GenerationEvidence, Slot};
use crate::thresholds::{LEARNT_SHARE, MOST, SAME_ANSWER};

/// Who trained, or who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The user's own program, or the adapter that it left.
    Theirs,
    /// This program.
    Reference,
}

impl Party {
    /// The name as files hold it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Theirs => "theirs",
            Self::Reference => "reference",
        }
    }
}

/// One answer in a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellAnswer {
    /// The answer, special tokens removed.
    pub text: String,
    /// Whether it ended before the limit of tokens; `None` when that is not known.
    pub ended: Option<bool>,
    /// Whether one span fills most of its end, or it goes in circles.
    pub looping: bool,
    /// Mean negative log-likelihood per token of the reference answer, in nats; `None` where only texts are seen.
    pub reference_nll: Option<f64>,
}

/// The answers of one generator with what one trainer left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapCell {
    /// Who trained.
    pub trainer: Party,
    /// Who answers.
    pub generator: Party,
    /// One entry per prompt, in the order of the baseline's.
    pub answers: Slot<Vec<CellAnswer>>,
}

/// A way in which another generator may have asked, or been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorReading {
    /// Without the adapter.
    WithoutAdapter,
    /// With the adapter's change counted twice, as on a base that it was fused into.
    AdapterTwice,
    /// With the prompt as plain text, the chat template left out.
    WithoutTemplate,
    /// Both: neither adapter nor template.
    WithoutEither,
    /// With the chat template, the header of the answer left out.
    WithoutHeader,
    /// With no token that ends an answer.
    StopsIgnored,
}

impl GeneratorReading {
    /// The name as files hold it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WithoutAdapter => "without_adapter",
            Self::AdapterTwice => "adapter_twice",
            Self::WithoutTemplate => "without_template",
            Self::WithoutEither => "without_either",
            Self::WithoutHeader => "without_header",
            Self::StopsIgnored => "stops_ignored",
        }
    }
}

/// What the reference engine says when it is asked in one such way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadAnswers {
    /// The way.
    pub reading: GeneratorReading,
    /// One entry per prompt.
    pub texts: Vec<String>,
}

/// The reference trainer's run beside another's, with the same model, data, seed and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRun {
    /// Losses by step in nats; `None` for one that is not finite.
    pub losses: Vec<Option<f64>>,
    /// Norms of the gradient by step.
    pub gradient_norms: Vec<Option<f64>>,
    /// Loss of the first rows before, in nats.
    pub loss_before: Option<f64>,
    /// The same after.
    pub loss_after: Option<f64>,
    /// Median over the adapted modules of the change's norm over the weight's norm.
    pub median_update: Option<f64>,
    /// Seconds.
    pub seconds: f64,
}

/// The user's trainer or generator in the place of this program's: the two-by-two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapEvidence {
    /// Every cell that there is: a row for each trainer, a column for each generator.
    pub cells: Vec<SwapCell>,
    /// What their generator may have done instead, some ways more than once where its text may be written in more than one
    /// way; empty when it did what it should.
    pub readings: Vec<ReadAnswers>,
    /// Whether their generator answers the same when it is asked again; `None` when it was not.
    pub repeatable: Option<bool>,
    /// The reference trainer's run beside theirs; `Skipped` when theirs is not another program.
    pub reference: Slot<ReferenceRun>,
}

/// How one cell does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// As it should.
    Works,
    /// There are no answers.
    Absent,
    /// It answers as the base does.
    LikeBase,
    /// Most answers are empty.
    Empty,
    /// Most answers loop.
    Loops,
    /// No answer ends by itself.
    NeverStops,
    /// It says something else than the reference engine says with the same weights.
    Differs,
    /// It learnt much less than the reference did.
    LearntLess,
}

impl CellState {
    /// The name as files hold it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Absent => "absent",
            Self::LikeBase => "like_base",
            Self::Empty => "empty",
            Self::Loops => "loops",
            Self::NeverStops => "never_stops",
            Self::Differs => "differs",
            Self::LearntLess => "learnt_less",
        }
    }
}

/// Which side holds the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Every cell works.
    Neither,
    /// Their training.
    Training,
    /// Their generation.
    Generation,
    /// Both of theirs, each by itself.
    Both,
    /// Each works with the reference's counterpart, and the two do not work together.
    Together,
    /// The reference alone does not work either: the model, the data or the settings.
    Shared,
    /// The reference learnt too little to tell.
    Unknown,
}

impl Side {
    /// The name as files hold it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neither => "neither",
            Self::Training => "training",
            Self::Generation => "generation",
            Self::Both => "both",
            Self::Together => "together",
            Self::Shared => "shared",
            Self::Unknown => "unknown",
        }
    }
}

impl SwapEvidence {
    /// The cell of this trainer and this generator; `None` when there is none.
    pub fn cell(&self, trainer: Party, generator: Party) -> Option<&SwapCell> {
        self.cells
            .iter()
            .find(|cell| cell.trainer == trainer && cell.generator == generator)
    }

    fn answers(&self, trainer: Party, generator: Party) -> Option<&[CellAnswer]> {
        self.cell(trainer, generator)?.answers.ran().map(Vec::as_slice)
    }

    /// How a cell does, beside the base's own answers.
    ///
    /// A generator is measured against the reference engine with the same weights, a trainer against the reference trainer
    /// with the same engine, and the reference itself against the base.
    pub fn state(&self, cell: &SwapCell, base: &GenerationEvidence) -> CellState {
        let Slot::Ran(answers) = &cell.answers else {
            return CellState::Absent;
        };
        let expected = match (cell.trainer, cell.generator) {
            (trainer, Party::Theirs) => self.answers(trainer, Party::Reference),
            (Party::Theirs, Party::Reference) => self.answers(Party::Reference, Party::Reference),
            (Party::Reference, Party::Reference) => None,
        };
        let base_answers: Vec<CellAnswer> = base.answers.iter().map(CellAnswer::from).collect();
        let beside = expected.unwrap_or(&base_answers);
        let more = |is_bad: fn(&CellAnswer) -> bool| {
            let count = |answers: &[CellAnswer]| answers.iter().filter(|answer| is_bad(answer)).count();
            is_most(count(answers), answers.len()) && !is_most(count(beside), beside.len())
        };
        if more(CellAnswer::is_empty) {
            return CellState::Empty;
        }
        let is_trainer_judged = cell.generator == Party::Reference;
        let learnt = expected
            .filter(|_| is_trainer_judged)
            .and_then(|expected| learnt_share(answers, expected, &base_answers));
        let has_learnt = learnt.is_some_and(|share| share >= LEARNT_SHARE);
        if !has_learnt && is_like_base(answers, expected, &base_answers, is_trainer_judged) {
            return CellState::LikeBase;
        }
        if more(|answer| answer.looping) {
            return CellState::Loops;
        }
        if more(|answer| answer.ended == Some(false)) {
            return CellState::NeverStops;
        }
        match expected {
            Some(expected) if !is_trainer_judged && !agrees(answers, expected) => CellState::Differs,
            _ if learnt.is_some() && !has_learnt => CellState::LearntLess,
            _ => CellState::Works,
        }
    }

    /// Which side holds the fault, as far as the cells tell; `None` when there is no reference to compare with.
    pub fn side(&self, base: &GenerationEvidence) -> Option<Side> {
        // A cell without answers says nothing of a side.
        let works = |trainer, generator| {
            self.cell(trainer, generator)
                .map(|cell| self.state(cell, base))
                .filter(|state| *state != CellState::Absent)
                .map(|state| state == CellState::Works)
        };
        let finished = self.cell(Party::Reference, Party::Reference).is_none();
        if finished {
            // One row: what the engine makes of the same adapter is what theirs is measured against.
            self.answers(Party::Theirs, Party::Reference)?;
            return Some(if works(Party::Theirs, Party::Theirs)? {
                Side::Neither
            } else {
                Side::Generation
            });
        }
        let reference = self.cell(Party::Reference, Party::Reference)?;
        match self.state(reference, base) {
            CellState::Works => {}
            CellState::LikeBase | CellState::Absent => return Some(Side::Unknown),
            _ => return Some(Side::Shared),
        }
        let trains = works(Party::Theirs, Party::Reference);
        let generates = works(Party::Reference, Party::Theirs);
        let together = works(Party::Theirs, Party::Theirs);
        Some(match (trains, generates) {
            (Some(false), Some(false)) => Side::Both,
            (Some(false), _) => Side::Training,
            // Their trainer left nothing that this engine could answer with: its side may hold a fault as well.
            (None, _) if self.cell(Party::Theirs, Party::Reference).is_some() => return None,
            (_, Some(false)) => Side::Generation,
            _ if together == Some(false) => Side::Together,
            (None, None) => return None,
            _ if self.has_absent_generator() => return None,
            _ => Side::Neither,
        })
    }

    /// Whether their generator gave no answer with some adapter.
    fn has_absent_generator(&self) -> bool {
        self.cells
            .iter()
            .any(|cell| cell.generator == Party::Theirs && cell.answers.ran().is_none())
    }

    /// The prompts whose answers tell a way of asking from the right one, and those of them that their generator answered
    /// in that way.
    ///
    /// Judged by the row of `trainer`: the longer an answer begins like another, the nearer it is. Nothing is like
    /// nothing whatever it was asked with, so empty answers count only beside one with text.
    pub fn read_as(&self, trainer: Party, expected: &[String], read: &[String]) -> Option<ReadCount> {
        let theirs = self.answers(trainer, Party::Theirs)?;
        let mut count = ReadCount {
            telling: 0,
            agreeing: 0,
        };
        let mut has_text = false;
        for ((theirs, expected), read) in theirs.iter().zip(expected).zip(read) {
            if alike(expected, read) >= 1.0 {
                continue;
            }
            count.telling += 1;
            let nearness = alike(&theirs.text, read);
            if nearness >= SAME_ANSWER && nearness > alike(&theirs.text, expected) {
                count.agreeing += 1;
                has_text |= !theirs.is_empty();
            }
        }
        if !has_text {
            count.agreeing = 0;
        }
        Some(count)
    }

    /// The trainer by whose weights their generator is judged: the reference where there is one.
    pub fn judged_trainer(&self) -> Option<Party> {
        [Party::Reference, Party::Theirs].into_iter().find(|&trainer| {
            self.answers(trainer, Party::Reference).is_some() && self.answers(trainer, Party::Theirs).is_some()
        })
    }
}

/// How many answers are what a way of asking gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCount {
    /// Prompts whose answer in that way is not the right one.
    pub telling: usize,
    /// Prompts among them that were answered in that way.
    pub agreeing: usize,
}

impl ReadCount {
    /// Whether most of the prompts that tell say that it was asked in this way.
    pub fn is_most(self) -> bool {
        self.telling > 0 && is_most(self.agreeing, self.telling)
    }
}

impl CellAnswer {
    fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }
}

impl From<&super::Answer> for CellAnswer {
    fn from(answer: &super::Answer) -> Self {
        Self {
            text: answer.text.clone(),
            ended: Some(answer.finish == super::FinishReason::Stop),
            looping: answer.is_looping(),
            reference_nll: answer.reference_nll,
        }
    }
}

fn is_most(count: usize, all: usize) -> bool {
    count as f64 > MOST * all as f64
}

/// How far two texts begin alike, 0 to 1: the characters of their common beginning over those of the longer text, white
/// space counted as one.
///
/// Greedy decoding in another precision leaves the path at a near tie, so the ends of two right answers may differ.
pub fn alike(left: &str, right: &str) -> f64 {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (left, right) = (plain(left), plain(right));
    let longest = left.chars().count().max(right.chars().count());
    if longest == 0 {
        return 1.0;
    }
    let common = left
        .chars()
        .zip(right.chars())
        .take_while(|(left, right)| left == right);
    common.count() as f64 / longest as f64
}

/// Whether most answers are those that were expected.
fn agrees(answers: &[CellAnswer], expected: &[CellAnswer]) -> bool {
    let alike = answers
        .iter()
        .zip(expected)
        .filter(|(answer, expected)| alike(&answer.text, &expected.text) >= SAME_ANSWER);
    is_most(alike.count(), answers.len())
}

/// Whether the answers are the base's where they should not be.
///
/// A generator may answer as the base does where its weights do; a training that leaves the base's answers did nothing.
fn is_like_base(
    answers: &[CellAnswer],
    expected: Option<&[CellAnswer]>,
    base: &[CellAnswer],
    is_trainer_judged: bool,
) -> bool {
    let mut pairs = answers.iter().zip(base);
    if is_trainer_judged && pairs.all(|(answer, base)| alike(&answer.text, &base.text) >= 1.0) {
        return true;
    }
    let Some(expected) = expected else {
        return false;
    };
    let telling: Vec<bool> = answers
        .iter()
        .zip(expected)
        .zip(base)
        .filter(|((_, expected), base)| alike(&expected.text, &base.text) < 1.0)
        .map(|((answer, expected), base)| {
            let nearness = alike(&answer.text, &base.text);
            nearness >= SAME_ANSWER && nearness > alike(&answer.text, &expected.text)
        })
        .collect();
    !telling.is_empty() && is_most(telling.iter().filter(|like| **like).count(), telling.len())
}

/// What a training made the references more likely, over what the reference trainer made them; `None` where neither is
/// known, or the reference did not.
fn learnt_share(answers: &[CellAnswer], expected: &[CellAnswer], base: &[CellAnswer]) -> Option<f64> {
    let mean = |answers: &[CellAnswer]| {
        let known: Vec<f64> = answers.iter().filter_map(|answer| answer.reference_nll).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    let (theirs, reference, base) = (mean(answers)?, mean(expected)?, mean(base)?);
    (reference < base).then(|| (base - theirs) / (base - reference))
}
