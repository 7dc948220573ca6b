//! The other processes of a run, where a launcher started several.

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::run::note_error;
use crate::distributed::{Loss, Placement, PresenceLimits, Ranks};
use crate::fine_tuning::{FineTuneSettings, Plan, RunInputs};
use crate::temporary_folder::end_process;

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
        // What was written is whole: files get their names when they are.
        end_process(end(&loss).into());
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
    let rows = plan.settings.batch_size;
    check_batch(ranks, rows, &format!("`batch_size: {rows}`"))?;
    ranks.agree_on_text("settings", &without_paths(&plan.settings))?;
    let inputs = RunInputs::of(plan);
    for (what, checksum) in [
        ("model", inputs.model),
        ("rows", inputs.rows),
        // The checksum of nothing.
        ("rows for validation", inputs.validation_rows.unwrap_or(0)),
    ] {
        ranks.agree(what, checksum)?;
    }
    Ok(())
}

/// Refuses batches of too few `rows` for every process to have one; `written` is how the user wrote their number.
pub fn check_batch(ranks: &Ranks, rows: usize, written: &str) -> Result<()> {
    let processes = ranks.size();
    if rows >= processes {
        return Ok(());
    }
    ranks.all_end();
    Err(anyhow!(
        "a batch has fewer rows than there are processes\n  found: {written} for {processes} processes, which share the rows of each batch\n  hint: raise `--batch-size` to {processes} or a multiple of it"
    ))
}

/// All but the paths, which may differ from machine to machine: what lies there is compared for itself.
fn without_paths(settings: &FineTuneSettings) -> String {
    let mut table = settings.to_json();
    for path in ["model", "data", "adapter_path", "resume_adapter_file"] {
        table[path] = Value::Null;
    }
    table.to_string()
}
