//! What every process did in every update, known to all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_rs::error::Exception;
use mlx_rs::memory::active_memory;

use super::Ranks;
use super::agreement::checksum;
use crate::evidence::{RankUpdate, RanksEvidence, RanksUpdate, VectorSketch};
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{Sketch, TrainingStep};

/// Seed of the signs for trained values, which has to be the same in every update: what differs is their change.
const SEED_OF_TRAINED: u64 = 0;

/// Collects what the processes of a run did.
#[derive(Debug)]
pub struct RanksRecorder<'ranks> {
    ranks: &'ranks Ranks,
    evidence: Arc<Mutex<RanksEvidence>>,
}

impl<'ranks> RanksRecorder<'ranks> {
    /// A recorder of a run in which all begin with these trained values.
    ///
    /// # Errors
    /// A process is lost.
    pub fn begin(ranks: &'ranks Ranks, trained: &ParameterSnapshot) -> Result<Self, Exception> {
        let own = checksum(trained.parameters())?;
        let start = ranks.gather(&own)?;
        Ok(Self {
            ranks,
            evidence: Arc::new(Mutex::new(RanksEvidence {
                size: ranks.size(),
                start,
                updates: Vec::new(),
                lost: None,
            })),
        })
    }

    /// Takes notice of an update that led to these trained values, and returns what all did in it; all processes have to. `None` for
    /// an update whose shares are not wanted.
    ///
    /// # Errors
    /// A process is lost.
    pub fn record(&self, step: &TrainingStep, trained: &ParameterSnapshot) -> Result<Option<RanksUpdate>, Exception> {
        let Some(share) = &step.share else {
            return Ok(None);
        };
        let values = trained.parameters();
        let own = RankUpdate {
            parameters: checksum(values)?,
            trained: finite(Sketch::of(values, SEED_OF_TRAINED)?),
            rows: share.rows.clone(),
            supervised_tokens: share.supervised_tokens,
            positions: share.positions,
            own: share.own.and_then(finite),
            applied: finite(share.applied),
            own_seconds: share.seconds,
            seconds: step.seconds,
            active_memory: active_memory().ok().map(|bytes| bytes as u64),
        };
        let update = RanksUpdate {
            update: step.step,
            rows: share.rows_of_all,
            ranks: self.ranks.gather(&own)?,
        };
        self.lock().updates.push(update.clone());
        Ok(Some(update))
    }

    /// What is known until now, which the thread that hears of a loss may read.
    pub fn shared(&self) -> Arc<Mutex<RanksEvidence>> {
        Arc::clone(&self.evidence)
    }

    /// What is known of the latest updates, `count` at most.
    pub fn latest(&self, count: usize) -> RanksEvidence {
        let known = self.lock();
        RanksEvidence {
            updates: known.updates[known.updates.len().saturating_sub(count)..].to_vec(),
            start: known.start.clone(),
            lost: known.lost.clone(),
            ..*known
        }
    }

    /// What is known until now.
    pub fn evidence(&self) -> RanksEvidence {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, RanksEvidence> {
        // Pushing an update leaves nothing half done.
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sketch as evidence; `None` where it is no number.
fn finite(sketch: Sketch) -> Option<VectorSketch> {
    let Sketch { norm, projection } = sketch;
    (norm.is_finite() && projection.is_finite()).then_some(VectorSketch { norm, projection })
}
