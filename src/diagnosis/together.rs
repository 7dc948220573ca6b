//! A diagnosis whose training several processes make together.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use mlx_rs::error::Exception;
use mlx_rs::module::update_parameters;

use crate::data::Dataset;
use crate::distributed::{AgreementError, Loss, Ranks, RanksRecorder};
use crate::evidence::{Evidence, LostRank, RanksEvidence, RunSettings, Slot};
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::train::DataParallel;
use crate::workflow::Workflow;

/// The processes of a diagnosis. All of them train; the first alone does the rest.
#[derive(Debug)]
pub struct Together<'ranks> {
    ranks: &'ranks Ranks,
    known: Arc<Known>,
    /// Whether nobody asks any more who can train.
    is_settled: Cell<bool>,
    has_failed: Cell<bool>,
}

impl<'ranks> Together<'ranks> {
    /// `known` is told what the diagnosis knows while they train.
    pub fn new(ranks: &'ranks Ranks, known: Arc<Known>) -> Self {
        Self {
            ranks,
            known,
            is_settled: Cell::new(false),
            has_failed: Cell::new(false),
        }
    }

    /// Whether this process does more than train.
    pub fn leads(&self) -> bool {
        self.ranks.is_first()
    }

    /// Whether the training failed here, for which the others may wait.
    pub fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Notes that the training failed here.
    pub(super) fn fail(&self) {
        self.has_failed.set(true);
    }

    /// Whether the inputs of all processes can be used, as those of this one can; asked before anything that takes long.
    pub(super) fn can_begin(&self) -> Result<bool, Exception> {
        self.answer(true)
    }

    /// Whether all processes are ready to make an update, as this one is.
    pub(super) fn can_train(&self) -> Result<bool, Exception> {
        let all_can = self.answer(true);
        self.is_settled.set(true);
        all_can
    }

    /// Tells the others that this process does not train, where they may still ask.
    pub(super) fn end(&self) -> Result<(), Exception> {
        if self.is_settled.get() {
            return Ok(());
        }
        self.answer(false).map(drop)
    }

    /// Answers a question that all ask; after a no there is no other one.
    fn answer(&self, own: bool) -> Result<bool, Exception> {
        let one_cannot = self.ranks.any(!own)?;
        if one_cannot {
            self.is_settled.set(true);
        }
        Ok(!one_cannot)
    }

    /// Refuses processes that would train something else.
    pub(super) fn agree(
        &self,
        settings: &RunSettings,
        base: &ParameterSnapshot,
        dataset: &Dataset,
    ) -> Result<(), AgreementError> {
        // Where they do not, all of them hear it and end.
        self.is_settled.set(true);
        // Paths may differ from machine to machine: what lies there is compared for itself.
        let anywhere = RunSettings {
            model: String::new(),
            data: String::new(),
            prompts: None,
            ..settings.clone()
        };
        self.ranks.agree_on_text("settings", &format!("{anywhere:?}"))?;
        self.ranks.agree("rows", dataset.checksum())?;
        self.ranks.agree_on_bits("model", base.parameters())?;
        self.is_settled.set(false);
        Ok(())
    }

    /// The processes as `workflow` has them; `None` for as they are.
    pub(super) fn of(&self, workflow: &dyn Workflow) -> Option<Box<dyn DataParallel + 'ranks>> {
        workflow.among(self.ranks)
    }

    /// As they are.
    pub(super) fn plain(&self) -> &'ranks dyn DataParallel {
        self.ranks
    }

    /// Lets all begin with the same values, and records what each does from now on.
    pub(super) fn begin(
        &self,
        model: &mut CausalModel,
        others: &dyn DataParallel,
    ) -> Result<RanksRecorder<'ranks>, Exception> {
        let own = ParameterSnapshot::capture_trainable(model).into_parameters();
        let alike = others.begin_alike(own)?;
        update_parameters(model, alike.into_iter().map(|(name, value)| (Rc::from(name), value)));
        let recorder = RanksRecorder::begin(self.ranks, &ParameterSnapshot::capture_trainable(model))?;
        self.known.training(recorder.shared());
        Ok(recorder)
    }

    /// Notes what is known before training, for when a process is lost in it.
    pub(super) fn know(&self, evidence: &Evidence) {
        if self.leads() {
            self.known.before_training(evidence.clone(), self.ranks.size());
        }
    }
}

/// What the first process knows while all of them train, for the thread that hears of a loss.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<KnownEvidence>>);

#[derive(Debug)]
struct KnownEvidence {
    before_training: Evidence,
    size: usize,
    ranks: Option<Arc<Mutex<RanksEvidence>>>,
}

impl Known {
    fn before_training(&self, evidence: Evidence, size: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(KnownEvidence {
            before_training: evidence,
            size,
            ranks: None,
        });
    }

    fn training(&self, ranks: Arc<Mutex<RanksEvidence>>) {
        if let Some(known) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            known.ranks = Some(ranks);
        }
    }

    /// The evidence of a diagnosis that lost a process; `None` while nothing is known yet.
    pub fn with_loss(&self, loss: &Loss) -> Option<Evidence> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let so_far = known
            .ranks
            .as_ref()
            .map(|ranks| ranks.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let mut ranks = so_far.unwrap_or_else(|| RanksEvidence {
            size: known.size,
            start: Vec::new(),
            updates: Vec::new(),
            lost: None,
        });
        ranks.lost = Some(LostRank {
            rank: loss.rank(),
            updates: ranks.updates.len(),
            how: loss.how(),
        });
        let mut evidence = known.before_training.clone();
        evidence.training = Slot::crashed(format!("rank {} was lost: {}", loss.rank(), loss.how()));
        evidence.ranks = Slot::Ran(ranks);
        Some(evidence)
    }
}
