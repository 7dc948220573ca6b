use crate::data::Dataset;
use crate::model::StopSet;
use crate::workflow::Workflow;

/// Labels in which only stop tokens are left.
#[derive(Debug)]
pub struct EosOnlyLabels;

impl Workflow for EosOnlyLabels {
    fn prepare(&self, mut dataset: Dataset, stop_set: &StopSet) -> Dataset {
        for example in &mut dataset.examples {
            for (token, supervised) in example.tokens.iter().zip(&mut example.supervised) {
                *supervised = *supervised && stop_set.contains(*token);
            }
        }
        dataset
    }
}
