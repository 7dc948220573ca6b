use super::rule::declare_rule;
use super::swapped_generator::judge;
use super::{Finding, Fix, Outcome, Severity};
use crate::evidence::{CellState, Evidence};

declare_rule! {
    /// ## What it finds
    ///
    /// A generator whose answers are not those of the reference engine with the same weights, and no known way of going
    /// wrong accounts for them.
    ///
    /// ## Why it matters
    ///
    /// Something between the weights and the answer is different: another template, another precision, another base, a
    /// cache, a sampler. What was measured on the engine does not hold for what users see.
    ///
    /// ## Evidence
    ///
    /// Fewer than most of the answers begin like the engine's for `SAME_ANSWER` of their length, and none of the ways
    /// of going wrong gives them either. It is an error when most answers are empty, loop or never end where the
    /// engine's do not; and a note when the generator answers the same prompt differently each time, so that it
    /// samples.
    ///
    /// ## How to fix
    ///
    /// Decode greedily (temperature 0), and compare prompt, template, precision and base with those of the training.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/447>
    /// - <https://github.com/ml-explore/mlx-examples/issues/286>
    pub static GENERATOR_DISAGREES = {
        name: "generator-disagrees",
        code: "GEN011",
        summary: "another generator answers otherwise than the engine, for a cause that is not known",
        phase: Generation,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let judged = match judge(evidence) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let Some(what) = in_words(judged.state) else {
        return Outcome::Pass;
    };
    if judged.reading().is_some() {
        return Outcome::not_applicable("what the generator does instead is known");
    }
    let samples = judged.swap.repeatable == Some(false);
    let finding = Finding::new(
        if samples {
            "the generator answers the same prompt differently each time".to_owned()
        } else {
            format!("the generator, with the same weights, {what}")
        },
        format!(
            "{what}; {}",
            match judged.swap.repeatable {
                Some(true) => "asked again, it answers the same",
                Some(false) => "asked again, it answers otherwise",
                None => "it was not asked again",
            }
        ),
        "answers that begin like the reference engine's with the same weights",
    )
    .with("state", judged.state.name())
    .with("repeatable", judged.swap.repeatable)
    .fix(Fix::by_hand(
        "decode greedily (temperature 0), and compare template, precision and base with those of the training",
    ));
    let severity = match judged.state {
        _ if samples => Severity::Info,
        CellState::Empty | CellState::Loops | CellState::NeverStops => Severity::Error,
        _ => Severity::Warning,
    };
    finding.lowered_to(severity).into()
}

/// What their generator does; `None` when it does as it should, or gave no answer.
fn in_words(state: CellState) -> Option<&'static str> {
    match state {
        CellState::Works | CellState::Absent => None,
        CellState::LikeBase => Some("answers as the base does"),
        CellState::Empty => Some("gives empty answers"),
        CellState::Loops => Some("gives answers that loop"),
        CellState::NeverStops => Some("gives answers that never end by themselves"),
        CellState::Differs | CellState::LearntLess => Some("answers otherwise than the engine"),
    }
}
