//! The other processes of a run, where a launcher started several.

use anyhow::{Result, anyhow};
use flate2::Crc;
use serde_json::Value;

use super::run::note_error;
use crate::distributed::{Loss, Placement, PresenceLimits, Ranks};
use crate::fine_tuning::{FineTuneSettings, Plan, RunInputs};

/// Meets the processes that were started with this one; `None` where it was started alone.
///
/// When one is lost, this process says which and ends at once, with the exit code that `end` gives: a collective that waits for it
/// cannot be ended otherwise.
pub fn meet(end: impl FnOnce(&Loss) -> u8 + Send + 'static) -> Result<Option<Ranks>> {
    let Some(placement) = Placement::of_environment()? else {
        return Ok(None);
    };
    let ranks = Ranks::meet(&placement, PresenceLimits::default(), move |loss| {
        note_error(&loss.to_string());
        // What was written is whole: files get their names when they are. `std::process::exit` would take apart what other
        // threads still compute with.
        signal_hook::low_level::exit(end(&loss).into());
    })?;
    Ok(Some(ranks))
}

/// Lets the others know where this process failed, so that they do not wait for it.
pub fn told<T>(ranks: Option<Ranks>, ended: Result<T>) -> Result<T> {
    if ended.is_err()
        && let Some(ranks) = ranks
    {
        ranks.fail();
    }
    ended
}

/// Refuses processes that would not make the same updates.
pub fn check_plan(ranks: &Ranks, plan: &Plan) -> Result<()> {
    let (rows, processes) = (plan.settings.batch_size, ranks.size());
    if rows < processes {
        ranks.all_end();
        return Err(anyhow!(
            "a batch has fewer rows than there are processes\n  found: `batch_size: {rows}` for {processes} processes, which share the rows of each batch\n  hint: raise `--batch-size` to {processes} or a multiple of it"
        ));
    }
    let inputs = RunInputs::of(plan);
    for (what, checksum) in [
        ("settings", settings_checksum(&plan.settings)),
        ("model", inputs.model),
        ("rows", inputs.rows),
        // The checksum of nothing.
        ("rows for validation", inputs.validation_rows.unwrap_or(0)),
    ] {
        ranks.agree(what, checksum)?;
    }
    Ok(())
}

/// Of everything but the paths, which may differ from machine to machine: what lies there is compared for itself.
fn settings_checksum(settings: &FineTuneSettings) -> u32 {
    let mut table = settings.to_json();
    for path in ["model", "data", "adapter_path", "resume_adapter_file"] {
        table[path] = Value::Null;
    }
    let mut checksum = Crc::new();
    checksum.update(table.to_string().as_bytes());
    checksum.sum()
}
