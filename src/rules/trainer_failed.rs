use super::rule::declare_rule;
use super::wording::shortest;
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, ExternalTraining, Slot};

declare_rule! {
    /// ## What it finds
    ///
    /// The trainer that was called failed, did not come to an end, or left no adapter.
    ///
    /// ## Why it matters
    ///
    /// A trainer that ends without an error and leaves nothing looks like one that worked until its adapter is missed; one
    /// that hangs looks like one that is busy.
    ///
    /// ## Evidence
    ///
    /// Identity: the command exits with 0 within its time, and its output folder holds an adapter of mlx-lm or PEFT.
    ///
    /// ## How to fix
    ///
    /// Read its last lines. The command is run by `sh`; placeholders such as `{model}` and `{output}` stand for what it is
    /// given, and its adapter has to be in `{output}`.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/issues/1355>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1204>
    pub static TRAINER_FAILED = {
        name: "trainer-failed",
        code: "OPT018",
        summary: "the trainer that was called failed, did not come to an end, or left no adapter",
        phase: Training,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let Slot::Ran(external) = &evidence.external else {
        return Outcome::not_measured("another trainer", &evidence.external);
    };
    if external.exit_code.is_none() && !external.timed_out && evidence.interrupted.is_some() {
        return Outcome::not_applicable("the user ended the run, and the trainer with it");
    }
    let Some(headline) = headline(external) else {
        return Outcome::Pass;
    };
    let lines = external.last_lines.join("\n");
    Finding::new(
        headline,
        match external.last_lines.last() {
            Some(last) => format!("its last line: {last}"),
            None => "it printed nothing".to_owned(),
        },
        "exit code 0, and an adapter in its output folder",
    )
    .with("trainer", external.trainer.clone())
    .with("exit_code", external.exit_code)
    .with("timed_out", external.timed_out)
    .with("left_adapter", external.left_adapter)
    .with("last_lines", lines)
    .fix(Fix::by_hand(if external.timed_out {
        "give it more time with `--trainer-timeout`, or find out what it waits for"
    } else {
        "read its last lines in the report; the command has to leave its adapter in the folder `{output}`"
    }))
    .into()
}

fn headline(external: &ExternalTraining) -> Option<String> {
    if external.timed_out {
        return Some(format!(
            "the trainer did not come to an end in {} s and was stopped",
            shortest(external.timeout)
        ));
    }
    match external.exit_code {
        Some(0) if external.left_adapter => None,
        Some(0) => Some("the trainer ended without an error and left no adapter".to_owned()),
        Some(code) => Some(format!("the trainer failed with exit code {code}")),
        None => Some("the trainer was ended by a signal".to_owned()),
    }
}
