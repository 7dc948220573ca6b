//! A diagnosis that several processes make, where a launcher started them.

use std::sync::Arc;

use anyhow::{Result, anyhow};

use super::device_arguments::BackendArgument;
use super::diagnose_arguments::DiagnoseArguments;
use super::output::{note, without_controls};
use super::ranks::{self, check_batch};
use super::run::{conclude, note_error, output_paths, prepared};
use crate::diagnosis::{Known, Silent, Together, diagnose_together};
use crate::distributed::Ranks;
use crate::evidence::Slot;
use crate::interrupt::Interrupt;
use crate::report::{EXIT_HEALTHY, EXIT_INCOMPLETE, Report};

/// Meets the processes that were started with this one; `None` where it was started alone.
///
/// When one is lost, the process that leads reports what is known until then.
pub fn meet(arguments: &DiagnoseArguments, known: &Arc<Known>) -> Result<Option<Ranks>> {
    let (known, folder, output) = (Arc::clone(known), arguments.out.clone(), arguments.output.clone());
    let met = ranks::meet(move |loss| {
        let Some(evidence) = known.with_loss(loss) else {
            if let Some(earlier) = folder
                .map(|folder| folder.join("report.json"))
                .filter(|path| path.exists())
            {
                note(&format!("note: `{}` is that of an earlier run", earlier.display()));
            }
            return EXIT_INCOMPLETE;
        };
        let paths = folder.as_deref().map_or_else(Vec::new, output_paths);
        let report = Report::new(&evidence, paths);
        conclude(&evidence, &report, folder.as_deref(), &output).unwrap_or_else(|error| {
            note_error(&error.to_string());
            EXIT_INCOMPLETE
        })
    })?;
    let Some(ranks) = met else {
        return Ok(None);
    };
    let planted = arguments.inject.map_or_else(String::new, |injection| {
        format!("{}={}", injection.operator.name, injection.severity)
    });
    ranks.agree_on_text("faults planted", &planted)?;
    check_batch(&ranks, arguments.batch_size, &arguments.batch_size.to_string())?;
    if let Some(found) = alone(arguments) {
        // Each of them was given it.
        ranks.all_end();
        return Err(anyhow!(
            "one process alone does {found}\n  found: {size} processes\n  expected: a diagnosis that trains with this program's trainer on MLX\n  hint: leave it out, or run it without a launcher",
            size = ranks.size()
        ));
    }
    Ok(Some(ranks))
}

/// What of the arguments nothing but a process of its own does.
fn alone(arguments: &DiagnoseArguments) -> Option<&'static str> {
    [
        (arguments.check_only, "`--check-only`"),
        (arguments.apply_fix, "`--apply-fix`"),
        (arguments.log.is_some(), "`--log`"),
        (arguments.adapter.is_some(), "`--adapter`"),
        (arguments.trained.is_some(), "`--trained`"),
        (arguments.trainer.is_some(), "`--trainer`"),
        (arguments.backend == Some(BackendArgument::Torch), "`--backend torch`"),
    ]
    .into_iter()
    .find_map(|(is_given, name)| is_given.then_some(name))
}

/// Trains with the process that leads, and leaves the rest to it.
pub fn accompany(arguments: &DiagnoseArguments, together: &Together<'_>, interrupt: &Interrupt) -> Result<u8> {
    let prepared = prepared(arguments)?;
    let evidence = diagnose_together(
        &prepared.options,
        prepared.workflow(),
        interrupt,
        &mut Silent,
        Some(together),
    );
    if evidence.ranks.ran().is_some() {
        return Ok(EXIT_HEALTHY);
    }
    match (&evidence.refusal, &evidence.training) {
        (Some(refusal), _) => note_error(&without_controls(refusal.error.clone())),
        (None, Slot::Crashed { error }) => return Err(anyhow!("{error}")),
        (None, Slot::Skipped { reason }) if !interrupt.is_requested() => note(&format!("not trained: {reason}")),
        (None, _) => {}
    }
    Ok(EXIT_INCOMPLETE)
}
