use std::collections::{BTreeSet, HashSet};

use super::answers;
use super::foreign_markers::{foreign_to, held_by};
use super::question::{Question, Renderings};
use super::row::{MaskFit, Row};
use crate::data::Dataset;
use crate::evidence::{
    BoundaryEvidence, DataEvidence, Listing, PromptDifference, Slot, TemplateEvidence, ValidationEvidence,
};
use crate::model::{StopSet, Tokenizer, TokenizerError};

/// Targets that are shown of a row whose mask is wrong.
const SHOWN_TARGETS: usize = 8;

/// Entries of what transformers 5 returns for a rendered prompt, which gets counted in place of its ids.
const DICTIONARY_ENTRIES: usize = 2;

/// What rows are audited with.
#[derive(Debug)]
pub struct DataProbe<'run> {
    /// The rows as they are trained on.
    pub dataset: &'run Dataset,
    /// The rows kept for validation, if any.
    pub validation: Option<&'run Dataset>,
    /// Text and tokens.
    pub tokenizer: &'run Tokenizer,
    /// Every token that ends a text.
    pub stop_set: &'run StopSet,
    /// Rows of the embedding table.
    pub vocabulary_size: usize,
    /// Whether prompts were to carry no loss.
    pub mask_prompt: bool,
}

impl DataProbe<'_> {
    /// Audits every row.
    pub fn measure(&self) -> Result<DataEvidence, TokenizerError> {
        let rows = self.rows(self.dataset)?;
        let lost: Vec<Option<usize>> = rows.iter().map(Row::tokens_lost).collect();
        let repeated: Vec<usize> = rows.iter().map(Row::repeated_ends).collect();
        let padding: Vec<usize> = rows.iter().map(Row::padding_targets).collect();
        let answers: Vec<(usize, usize)> = rows.iter().map(Row::answers).collect();
        let targets = || rows.iter().flat_map(|row| row.example.targets());
        let mut lengths: Vec<usize> = rows.iter().map(Row::length).collect();
        lengths.sort_unstable();
        let mut seen = HashSet::new();
        let stop_texts: Vec<&str> = self.stop_set.tokens().iter().map(|token| token.text.as_str()).collect();
        Ok(DataEvidence {
            format: self.dataset.format.name().to_owned(),
            rows: rows.len(),
            tokens: rows.iter().map(|row| row.example.tokens.len()).sum(),
            longest_row: lengths.last().copied().unwrap_or(0),
            median_row: lengths.get(lengths.len().saturating_sub(1) / 2).copied().unwrap_or(0),
            supervised_tokens: targets().count(),
            supervised_stop_tokens: targets().filter(|&id| self.stop_set.contains(id)).count(),
            rows_without_supervision: listed(&rows, |row| row.example.supervised_tokens() == 0),
            rows_only_stop_tokens: listed(&rows, Row::teaches_only_the_end),
            rows_ending_in_stop: rows.iter().filter(|row| row.ends_in_supervised_stop()).count(),
            rows_without_end: listed(&rows, Row::lacks_an_end),
            rows_with_empty_answer: listed(&rows, |row| answers::is_empty(&row.example.source, &stop_texts)),
            rows_with_masked_end: listed(&rows, Row::masks_its_end),
            rows_with_repeated_end: named(repeated.iter().map(|&targets| targets > 0)),
            repeated_end_tokens: repeated.iter().sum(),
            rows_with_supervised_padding: named(padding.iter().map(|&targets| targets > 0)),
            supervised_padding_tokens: padding.iter().sum(),
            rows_truncated: named(lost.iter().map(Option::is_some)),
            rows_with_lost_end: listed(&rows, Row::lost_its_end),
            tokens_lost: lost.iter().flatten().sum(),
            rows_with_double_beginning: listed(&rows, Row::begins_twice),
            rows_with_unknown_ids: listed(&rows, Row::has_unknown_ids),
            largest_id: rows
                .iter()
                .flat_map(|row| &row.example.tokens)
                .copied()
                .max()
                .unwrap_or(0),
            duplicate_rows: named(rows.iter().map(|row| !seen.insert(row.identity()))),
            boundary: self.boundary(&rows)?,
            template: self.template(&rows)?,
            assistant_messages: answers.iter().map(|(all, _)| all).sum(),
            supervised_assistant_messages: answers.iter().map(|(_, supervised)| supervised).sum(),
            rows_without_answer: listed(&rows, |row| answers::is_last(&row.example.source) == Some(false)),
            validation: self.validation(&seen)?,
            notes: self.dataset.notes.clone(),
        })
    }

    fn rows<'rows>(&'rows self, dataset: &'rows Dataset) -> Result<Vec<Row<'rows>>, TokenizerError> {
        dataset.examples.iter().map(|example| Row::new(example, self)).collect()
    }

    fn boundary(&self, rows: &[Row<'_>]) -> Result<BoundaryEvidence, TokenizerError> {
        let masks: Vec<_> = if self.mask_prompt {
            rows.iter().map(Row::mask).collect()
        } else {
            vec![None; rows.len()]
        };
        let fitting = |wanted: MaskFit| named(masks.iter().map(|mask| mask.is_some_and(|mask| mask.fit == wanted)));
        let misfit = masks
            .iter()
            .position(|mask| mask.is_some_and(|mask| matches!(mask.fit, MaskFit::Early | MaskFit::Late)));
        let first_targets = match misfit {
            Some(row) => {
                let targets: Vec<u32> = rows[row].example.targets().take(SHOWN_TARGETS).collect();
                self.tokenizer.decode(&targets, false)?
            }
            None => String::new(),
        };
        let starts: BTreeSet<usize> = masks.iter().flatten().filter_map(|mask| mask.start).collect();
        let ends: BTreeSet<usize> = masks
            .iter()
            .flatten()
            .filter(|mask| mask.start.is_some())
            .map(|mask| mask.prompt_end)
            .collect();
        let is_moved = |row: &Row<'_>| row.prompt_end().is_some_and(|(_, moved)| moved);
        Ok(BoundaryEvidence {
            rows: masks.iter().flatten().count(),
            moved: named(
                masks
                    .iter()
                    .zip(rows)
                    .map(|(mask, row)| mask.is_some() && is_moved(row)),
            ),
            unmasked: fitting(MaskFit::Unmasked),
            early: fitting(MaskFit::Early),
            late: fitting(MaskFit::Late),
            constant: starts
                .first()
                .copied()
                .filter(|start| starts.len() == 1 && is_no_prompt_end(*start, &ends)),
            supervised_prompt_tokens: rows.iter().map(Row::prompt_targets).sum(),
            first_targets,
        })
    }

    fn template(&self, rows: &[Row<'_>]) -> Result<TemplateEvidence, TokenizerError> {
        let questions = rows.iter().map(Row::question).collect::<Result<Vec<_>, _>>()?;
        let first = |renderings: fn(&Question) -> Option<&Renderings>| {
            questions.iter().enumerate().find_map(|(index, question)| {
                let Renderings { trained, asked } = renderings(question.as_ref()?)?.clone();
                Some(PromptDifference {
                    row: format!("row {}", index + 1),
                    trained,
                    asked,
                })
            })
        };
        let foreign = foreign_to(self.tokenizer)?;
        let held: Vec<Vec<&str>> = rows.iter().map(|row| held_by(&row.example.source, &foreign)).collect();
        let is_different = |question: &Option<Question>| matches!(question, Some(Question::Different(_)));
        let thinks_otherwise = |question: &Option<Question>| matches!(question, Some(Question::OtherThoughts(_)));
        Ok(TemplateEvidence {
            rows: questions.iter().flatten().count(),
            asked_differently: named(questions.iter().map(is_different)),
            difference: first(|question| match question {
                Question::Different(renderings) => Some(renderings),
                _ => None,
            }),
            asked_with_other_thoughts: named(questions.iter().map(thinks_otherwise)),
            thoughts_difference: first(|question| match question {
                Question::OtherThoughts(renderings) => Some(renderings),
                _ => None,
            }),
            rows_with_foreign_markers: named(held.iter().map(|markers| !markers.is_empty())),
            foreign_markers: held
                .into_iter()
                .flatten()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The validation rows, against the rows that are trained on.
    fn validation(&self, trained: &HashSet<&[u32]>) -> Result<Slot<ValidationEvidence>, TokenizerError> {
        let Some(validation) = self.validation else {
            return Ok(Slot::skipped("there are no rows for validation"));
        };
        let rows = self.rows(validation)?;
        Ok(Slot::Ran(ValidationEvidence {
            rows: rows.len(),
            also_trained: listed(&rows, |row| trained.contains(row.identity())),
        }))
    }
}

/// Whether a start of supervision that all rows share cannot come from their prompts.
fn is_no_prompt_end(start: usize, ends: &BTreeSet<usize>) -> bool {
    // From the second token on everything is supervised, which is no offset.
    start > 1 && (ends.len() > 1 || (start == DICTIONARY_ENTRIES && !ends.contains(&start)))
}

/// The rows for which something holds, as `row N`, in the order of the data.
fn listed<'run>(rows: &[Row<'run>], holds: impl Fn(&Row<'run>) -> bool) -> Listing {
    named(rows.iter().map(holds))
}

/// The rows whose flag is set.
fn named(flags: impl Iterator<Item = bool>) -> Listing {
    let numbers = flags
        .enumerate()
        .filter(|(_, flagged)| *flagged)
        .map(|(index, _)| index + 1);
    Listing::numbered("row", numbers)
}
