//! The label audit: what the loss will really be computed on.

use crate::data::{Dataset, Example};
use crate::evidence::{BoundaryEvidence, DataEvidence, Listing, Slot, TemplateEvidence};
use crate::model::{StopSet, Tokenizer, TokenizerError};

/// Audits every example of `dataset`.
pub fn measure(dataset: &Dataset, stop_set: &StopSet, tokenizer: &Tokenizer) -> Result<DataEvidence, TokenizerError> {
    let examples = &dataset.examples;
    let contents = examples
        .iter()
        .map(|example| content_targets(example, tokenizer))
        .collect::<Result<Vec<_>, _>>()?;
    let is_stop = |token: &u32| stop_set.contains(*token);
    Ok(DataEvidence {
        format: dataset.format.name().to_owned(),
        rows: examples.len(),
        tokens: examples.iter().map(|example| example.tokens.len()).sum(),
        longest_row: examples
            .iter()
            .map(|example| example.original_length)
            .max()
            .unwrap_or(0),
        supervised_tokens: examples.iter().map(Example::supervised_tokens).sum(),
        supervised_stop_tokens: examples.iter().flat_map(Example::targets).filter(is_stop).count(),
        rows_without_supervision: rows(examples.iter().map(|example| example.supervised_tokens() == 0)),
        rows_only_stop_tokens: rows(
            examples
                .iter()
                .zip(&contents)
                .map(|(example, content)| example.supervised_tokens() > 0 && content.iter().all(is_stop)),
        ),
        rows_ending_in_stop: contents
            .iter()
            .filter(|content| content.last().is_some_and(is_stop))
            .count(),
        rows_truncated: rows(examples.iter().map(|example| example.truncated)),
        median_row: 0,
        rows_with_masked_end: none(),
        rows_with_repeated_end: none(),
        rows_with_supervised_padding: none(),
        supervised_padding_tokens: 0,
        rows_with_lost_end: none(),
        tokens_lost: 0,
        rows_with_double_beginning: none(),
        rows_with_unknown_ids: none(),
        largest_id: 0,
        duplicate_rows: none(),
        boundary: BoundaryEvidence {
            rows: 0,
            moved: rows(examples.iter().map(|example| example.boundary_moved)),
            early: none(),
            late: none(),
            constant: None,
            supervised_prompt_tokens: 0,
            first_targets: String::new(),
        },
        template: TemplateEvidence {
            rows: 0,
            asked_differently: none(),
            difference: None,
            rows_with_foreign_markers: none(),
            foreign_markers: Vec::new(),
        },
        assistant_messages: 0,
        supervised_assistant_messages: 0,
        rows_without_answer: none(),
        validation: Slot::skipped("not measured"),
        notes: dataset.notes.clone(),
    })
}

fn none() -> Listing {
    rows(std::iter::empty())
}

/// The rows whose flag is set, as `row N`, in the order of the data.
fn rows(flags: impl Iterator<Item = bool>) -> Listing {
    let numbers = flags
        .enumerate()
        .filter(|(_, flagged)| *flagged)
        .map(|(index, _)| index + 1);
    Listing::numbered("row", numbers)
}

/// The supervised tokens of a row without those that are only white space: neither an answer of blanks nor a template's
/// newline after the turn end teaches anything.
fn content_targets(example: &Example, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    let mut content = Vec::new();
    for target in example.targets() {
        let text = tokenizer.decode(&[target], false)?;
        if text.is_empty() || !text.trim().is_empty() {
            content.push(target);
        }
    }
    Ok(content)
}
