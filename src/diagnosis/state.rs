use std::path::Path;
use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use thiserror::Error;

use super::DiagnosisOptions;
use super::costs::Costs;
use super::phases::Subject;
use crate::adapter::{AdapterFileError, attached_modules};
use crate::evidence::{
    DivergenceEvidence, FineTuneKind, FuseEvidence, GenerationEvidence, ReloadEvidence, Slot, StateEvidence,
};
use crate::model::CausalModel;
use crate::model::{LoadedModel, Tokenizer, TokenizerError};
use crate::probes::divergence::{held_out_rows, held_out_shift, mean_divergence, sampled_log_probabilities};
use crate::probes::fuse::FuseProbe;
use crate::probes::generation::Prompt;
use crate::probes::reload::{ReloadProbe, Reloaded};
use crate::probes::state::{self, ComparedLogits};
use crate::temporary_folder::TemporaryFolder;
use crate::train::Lanes;
use crate::workflow::Workflow;

/// The last phase: which state is live, and whether it survives saving and fusing.
pub(super) struct StatePhase<'run> {
    pub(super) options: &'run DiagnosisOptions,
    pub(super) workflow: &'run dyn Workflow,
    pub(super) loaded: &'run LoadedModel,
    pub(super) tokenizer: &'run Tokenizer,
    pub(super) prompts: &'run [Prompt],
    /// The base's own answers; `None` when they were not measured.
    pub(super) baseline: Option<&'run GenerationEvidence>,
    pub(super) subject: &'run Subject,
    /// The model that answered after training.
    pub(super) generating: &'run CausalModel,
    /// Where parts of the work are computed side by side.
    pub(super) lanes: &'run Lanes,
}

#[derive(Debug, Error)]
enum StateError {
    #[error(transparent)]
    File(#[from] AdapterFileError),
    #[error(transparent)]
    Mlx(#[from] Exception),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("cannot make a folder for the adapter: {0}")]
    Folder(#[from] std::io::Error),
}

impl StatePhase<'_> {
    /// Measures the phase; what its probes cost is added to `costs`. Fails when the live model has no logits.
    pub(super) fn measure(&self, costs: &mut Costs) -> Result<StateEvidence, Exception> {
        let started = Instant::now();
        let live_logits = self.subject.model.logits(&self.subject.compared)?;
        let generated = self.generating.logits(&self.subject.compared)?;
        let generation = Slot::of(state::generation_binding(
            self.generating,
            &self.subject.model,
            &ComparedLogits {
                base: &self.subject.base_logits,
                trained: &live_logits,
                generating: &generated,
            },
        ));
        let evaluations = match &self.subject.optimizer {
            Some(optimizer) => Slot::of(state::evaluations(&self.subject.model, &**optimizer)),
            None => Slot::skipped("nothing was trained here"),
        };
        let repeat_difference = costs.of("repeated-pass", || Slot::of(self.repeat_difference(&generated)));
        let (reload, reloaded_logits) = match (self.options.fine_tune, &self.subject.optimizer) {
            (_, None) => (Slot::skipped("the adapter comes from its files"), None),
            (FineTuneKind::Full, Some(_)) => (
                Slot::skipped("all weights were trained, so there is no adapter to save"),
                None,
            ),
            (FineTuneKind::Lora, Some(_)) => match self.reload(&live_logits) {
                Ok((measured, logits)) => (Slot::Ran(measured), logits),
                Err(error) => (Slot::crashed(error), None),
            },
        };
        let live = sampled_log_probabilities(&live_logits)?;
        let fuse = costs.of("fuse", || self.fuse(&live_logits, &live));
        let divergence = costs.of("divergence", || {
            Slot::of(self.divergence(&live, reloaded_logits.as_ref()))
        });
        Ok(StateEvidence {
            generation,
            evaluations,
            repeat_difference,
            reload,
            fuse,
            divergence,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// A second pass of the very model that answered.
    fn repeat_difference(&self, first: &Array) -> Result<Option<f64>, Exception> {
        state::largest_difference(&self.generating.logits(&self.subject.compared)?, first)
    }

    /// Saves the adapter and loads it onto the base's own handles, so that no second copy of the base is needed.
    fn reload(&self, live_logits: &Array) -> Result<(ReloadEvidence, Option<Array>), StateError> {
        let temporary;
        let folder: &Path = if let Some(folder) = &self.options.adapter_folder {
            folder
        } else {
            temporary = TemporaryFolder::new()?;
            temporary.path()
        };
        let live = &self.subject.model;
        let saving = self
            .workflow
            .save_adapter(live, &self.options.lora, &self.options.model_name, folder);
        let saved = match saving {
            Ok(saved) => Some(saved),
            // Nothing attached is nothing saved: a fact about the run, not a failure of this probe.
            Err(AdapterFileError::NothingToSave) => None,
            Err(error) => return Err(error.into()),
        };
        let mut model = self.loaded.model.clone();
        let loading = match saved {
            Some(_) => self.workflow.load_adapter(&mut model, folder).map(Some),
            None => Ok(None),
        };
        let logits = match loading {
            Ok(_) => Some(model.logits(&self.subject.compared)?),
            Err(_) => None,
        };
        let measured = ReloadProbe {
            live,
            base: &self.subject.base,
            base_logits: &self.subject.base_logits,
            live_logits,
        }
        .measure(&Reloaded {
            saved,
            folder,
            model: &model,
            loading,
            logits: logits.as_ref(),
        })?;
        Ok((measured, logits))
    }

    fn fuse(&self, live_logits: &Array, live: &Array) -> Slot<FuseEvidence> {
        if self.options.fine_tune == FineTuneKind::Full {
            return Slot::skipped("all weights were trained, so there is no adapter to fuse");
        }
        if attached_modules(&self.subject.model).is_empty() {
            return Slot::skipped("no adapter is attached, so there is none to fuse");
        }
        let mut model = self.subject.model.clone();
        let probe = FuseProbe {
            live: &self.subject.model,
            tokens: &self.subject.compared,
            live_logits,
            live_log_probabilities: live,
        };
        Slot::of(
            self.workflow
                .fuse(&mut model)
                .and_then(|fused| probe.measure(model, fused)),
        )
    }

    fn divergence(&self, live: &Array, reloaded: Option<&Array>) -> Result<DivergenceEvidence, StateError> {
        let base = sampled_log_probabilities(&self.subject.base_logits)?;
        let live_from_reloaded = match reloaded {
            Some(logits) => mean_divergence(live, &sampled_log_probabilities(logits)?)?,
            None => None,
        };
        let rows = match self.baseline {
            Some(baseline) => held_out_rows(self.prompts, baseline, self.tokenizer)?,
            None => Vec::new(),
        };
        let shift = held_out_shift(&self.loaded.model, &self.subject.model, &rows, self.lanes)?;
        Ok(DivergenceEvidence {
            live_from_base: mean_divergence(live, &base)?,
            live_from_reloaded,
            held_out: shift.and_then(|shift| shift.divergence),
            held_out_rise: shift.and_then(|shift| shift.rise),
        })
    }
}
