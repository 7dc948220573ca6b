//! What another generator made of weights that the reference engine answered with too.

use super::wording::counted;
use super::{Finding, Fix, Outcome};
use crate::evidence::{
    CellState, Evidence, GenerationEvidence, GeneratorReading, Party, ReadCount, Side, Slot, SwapEvidence,
};

/// Ways of going wrong, the likelier first where two fit as well.
const READINGS: [GeneratorReading; 6] = [
    GeneratorReading::WithoutAdapter,
    GeneratorReading::StopsIgnored,
    GeneratorReading::WithoutTemplate,
    GeneratorReading::WithoutEither,
    GeneratorReading::WithoutHeader,
    GeneratorReading::AdapterTwice,
];

/// Their generator's answers beside the engine's, with one trainer's weights.
pub(super) struct Judged<'a> {
    pub(super) swap: &'a SwapEvidence,
    pub(super) state: CellState,
    pub(super) trainer: Party,
    base: &'a GenerationEvidence,
}

/// The two-by-two, when another generator was asked.
pub(super) fn swap(evidence: &Evidence) -> Result<&SwapEvidence, Outcome> {
    let Slot::Ran(swap) = &evidence.swap else {
        return Err(Outcome::not_measured("another generator", &evidence.swap));
    };
    if swap.cells.iter().all(|cell| cell.generator == Party::Reference) {
        return Err(Outcome::not_applicable("no other generator was asked for"));
    }
    Ok(swap)
}

/// Judges their generator, or says why it cannot be judged.
pub(super) fn judge(evidence: &Evidence) -> Result<Judged<'_>, Outcome> {
    let swap = swap(evidence)?;
    let Slot::Ran(base) = &evidence.baseline else {
        return Err(Outcome::not_measured("the baseline", &evidence.baseline));
    };
    let trainer = swap.judged_trainer();
    let cell = trainer.and_then(|trainer| Some((trainer, swap.cell(trainer, Party::Theirs)?)));
    let Some((trainer, cell)) = cell else {
        return Err(Outcome::not_applicable(
            "no weights were answered with by both generators",
        ));
    };
    Ok(Judged {
        swap,
        state: swap.state(cell, base),
        trainer,
        base,
    })
}

/// The outcome of a rule about these ways of going wrong; `fix` says what to do against them.
pub(super) fn outcome(
    evidence: &Evidence,
    readings: &[GeneratorReading],
    headline: &str,
    expected: &str,
    fix: &str,
) -> Outcome {
    match judge(evidence) {
        Err(outcome) => outcome,
        Ok(judged) => match judged.finding(readings, headline, expected) {
            None => Outcome::Pass,
            Some(finding) => finding.fix(Fix::by_hand(fix)).into(),
        },
    }
}

impl Judged<'_> {
    /// What their generator did instead, when one way accounts for most of its answers.
    pub(super) fn reading(&self) -> Option<(GeneratorReading, ReadCount)> {
        if self.state == CellState::Works {
            return None;
        }
        let expected = self.expected()?;
        let mut best: Option<(GeneratorReading, ReadCount)> = None;
        for reading in READINGS {
            let counts = self.swap.readings.iter().filter(|read| read.reading == reading);
            for read in counts {
                let Some(count) = self.swap.read_as(self.trainer, &expected, &read.texts) else {
                    continue;
                };
                let is_better = best.is_none_or(|(_, best)| count.agreeing > best.agreeing);
                if count.is_most() && is_better {
                    best = Some((reading, count));
                }
            }
        }
        best
    }

    /// A finding of this reading, when it is the one.
    fn finding(&self, readings: &[GeneratorReading], headline: &str, expected: &str) -> Option<Finding> {
        let (reading, count) = self.reading().filter(|(reading, _)| readings.contains(reading))?;
        Some(
            Finding::new(
                headline,
                format!(
                    "{} of {} that tell the two apart {} what the reference engine says {}",
                    count.agreeing,
                    counted(count.telling, "answer"),
                    if count.agreeing == 1 { "is" } else { "are" },
                    in_words(reading)
                ),
                expected,
            )
            .with("reading", reading.name())
            .with("agreeing", count.agreeing)
            .with("telling", count.telling)
            .with("side", self.swap.side(self.base).map(Side::name)),
        )
    }

    fn expected(&self) -> Option<Vec<String>> {
        let engine = self.swap.cell(self.trainer, Party::Reference)?.answers.ran()?;
        Some(engine.iter().map(|answer| answer.text.clone()).collect())
    }
}

fn in_words(reading: GeneratorReading) -> &'static str {
    match reading {
        GeneratorReading::WithoutAdapter => "without the adapter",
        GeneratorReading::AdapterTwice => "with the adapter's change counted twice",
        GeneratorReading::WithoutTemplate => "to the bare prompt, without the chat template",
        GeneratorReading::WithoutEither => "to the bare prompt, without adapter and chat template",
        GeneratorReading::WithoutHeader => "without the header that opens the answer",
        GeneratorReading::StopsIgnored => "when no token ends an answer",
    }
}
