//! A diagnosis whose training several processes make together.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Crc;
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
    has_answered: Cell<bool>,
}

impl<'ranks> Together<'ranks> {
    /// `known` is told what the diagnosis knows while they train.
    pub fn new(ranks: &'ranks Ranks, known: Arc<Known>) -> Self {
        Self {
            ranks,
            known,
            has_answered: Cell::new(false),
        }
    }

    /// Whether this process does more than train.
    pub fn leads(&self) -> bool {
        self.ranks.is_first()
    }

    /// Whether all processes can train, of which this one can.
    pub(super) fn can_train(&self) -> Result<bool, Exception> {
        self.answer(true)
    }

    /// Tells the others that this process does not train, where they still wait to hear whether it does.
    pub(super) fn end(&self) -> Result<(), Exception> {
        if self.has_answered.get() {
            return Ok(());
        }
        self.answer(false).map(drop)
    }

    fn answer(&self, can_train: bool) -> Result<bool, Exception> {
        self.has_answered.set(true);
        self.ranks.any(!can_train).map(|one_cannot| !one_cannot)
    }

    /// Refuses processes that would train something else.
    pub(super) fn agree(
        &self,
        settings: &RunSettings,
        base: &ParameterSnapshot,
        dataset: &Dataset,
    ) -> Result<(), AgreementError> {
        self.ranks.agree("settings", checksum_of_settings(settings))?;
        self.ranks.agree("rows", dataset.checksum())?;
        self.ranks.agree_on_bits("model", base.parameters())
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

/// Of everything but the paths, which may differ from machine to machine: what lies there is compared for itself.
fn checksum_of_settings(settings: &RunSettings) -> u32 {
    let anywhere = RunSettings {
        model: String::new(),
        data: String::new(),
        prompts: None,
        ..settings.clone()
    };
    let mut checksum = Crc::new();
    checksum.update(format!("{anywhere:?}").as_bytes());
    checksum.sum()
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
