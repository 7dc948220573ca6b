use super::finished_adapter::files;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{AdapterFilesEvidence, Evidence, Listing};

declare_rule! {
    /// ## What it finds
    ///
    /// The adapter holds tensors that this base has no place for.
    ///
    /// ## Why it matters
    ///
    /// An adapter is a correction to one model. On a base of another width or depth nothing or only a part of it can be
    /// applied; loaders that are not strict leave the rest out without a word.
    ///
    /// ## Evidence
    ///
    /// Identity: every tensor of the adapter has a layer of that name in the base, with the same inputs and outputs.
    ///
    /// ## How to fix
    ///
    /// Use the base that the adapter's configuration names.
    ///
    /// ## References
    ///
    /// - <https://github.com/ml-explore/mlx-lm/pull/1725>
    /// - <https://github.com/ml-explore/mlx-lm/issues/1727>
    /// - <https://github.com/huggingface/peft/issues/276>
    pub static FINISHED_ADAPTER_DOES_NOT_FIT = {
        name: "finished-adapter-does-not-fit",
        code: "SAVE007",
        summary: "the adapter holds tensors that this base has no place for",
        phase: Parameters,
        severity: Error,
        status: Preview,
        since: "0.1.0",
        explains: &[
            "finished-adapter-incomplete",
            "finished-adapter-misdescribed",
            "adapter-not-attached",
            "adapter-too-weak",
            "adapter-never-moved",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let files = match files(evidence) {
        Ok(files) => files,
        Err(outcome) => return outcome,
    };
    let misfits = files.other_shape.total + files.unused.total + files.set_aside.total;
    if misfits == 0 {
        return Outcome::Pass;
    }
    let headline = if files.applied == 0 {
        "the adapter does not belong to this base: none of its tensors fits".to_owned()
    } else {
        format!(
            "{} of {} of the adapter cannot be applied to this base",
            grouped(misfits as u64),
            counted(files.tensors, "tensor")
        )
    };
    Finding::new(headline, found(files), "a place in the base for every tensor")
        .at(place(files))
        .with("tensors", files.tensors)
        .with("applied", files.applied)
        .with("other_shape", &files.other_shape)
        .with("unused", &files.unused)
        .with("set_aside", &files.set_aside)
        .with("trained_on", files.trained_on.clone())
        .fix(fix(files, &evidence.settings.model))
        .into()
}

fn found(files: &AdapterFilesEvidence) -> String {
    let kinds = [
        (&files.other_shape, "of another shape"),
        (&files.unused, "that the base has no layer for"),
        (&files.set_aside, "of a kind that is not applied"),
    ];
    let found: Vec<String> = kinds
        .iter()
        .filter(|(listing, _)| !listing.is_empty())
        .map(|(listing, what)| format!("{} {what}", counted(listing.total, "tensor")))
        .collect();
    found.join(", ")
}

fn place(files: &AdapterFilesEvidence) -> &Listing {
    [&files.other_shape, &files.unused]
        .into_iter()
        .find(|listing| !listing.is_empty())
        .unwrap_or(&files.set_aside)
}

fn fix(files: &AdapterFilesEvidence, model: &str) -> Fix {
    if files.other_shape.is_empty() && files.unused.is_empty() {
        return Fix::by_hand(
            "merge the adapter into its base with the program that trained it, and judge the merged folder instead",
        );
    }
    Fix::by_hand(match &files.trained_on {
        Some(base) if base != model => format!("use the base that it was trained on, `{base}`, instead of `{model}`"),
        _ => format!("use the base that it was trained on instead of `{model}`"),
    })
}
