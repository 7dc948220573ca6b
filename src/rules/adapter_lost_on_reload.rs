use super::adapter_file_unusable::lacks_tensors_only;
use super::live_state::reload;
use super::rule::declare_rule;
use super::wording::{counted, difference, grouped, shortest};
use super::{Finding, Fix, Outcome};
use crate::evidence::{Evidence, FineTuneKind, ReloadEvidence};
use crate::thresholds::logit_tolerance;

declare_rule! {
    /// ## What it finds
    ///
    /// What was saved and loaded again is not what was trained.
    ///
    /// ## Why it matters
    ///
    /// Everything looks right as long as the process lives. The file that is shared, fused or served holds less, or
    /// holds it under names that nobody asks for, and loaders that are not strict say nothing.
    ///
    /// ## Evidence
    ///
    /// Identity: every tensor that was to be saved comes back bit for bit under its name, and the reloaded model's
    /// logits are the live model's. Loading onto the same base leaves no room for a difference; the tolerance, which
    /// grows with the distance of the live model from the base, allows only for another order of summation.
    ///
    /// ## How to fix
    ///
    /// Save exactly the trainable parameters, under the names in the parameter tree; if the base was trained too,
    /// freeze it or save it. Evaluate before saving, write to a new file, and load strictly, so that missing and
    /// unexpected names are errors.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/392>
    /// - <https://github.com/ml-explore/mlx-lm/pull/1725>
    /// - <https://github.com/unslothai/unsloth-zoo/issues/1078>
    pub static ADAPTER_LOST_ON_RELOAD = {
        name: "adapter-lost-on-reload",
        code: "SAVE001",
        summary: "what was saved and loaded again is not what was trained",
        phase: State,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let reload = match reload(evidence) {
        Ok(reload) => reload,
        Err(outcome) => return outcome,
    };
    if reload.refused.is_some() && !lacks_tensors_only(reload) {
        return Outcome::not_applicable("what was saved could not be loaded, which is a finding of its own");
    }
    let Some(live_from_base) = reload.live_from_base else {
        return Outcome::not_applicable("the live model's logits are not finite, so they cannot be compared");
    };
    // Logits of a model that training blew up are large, and so is their rounding.
    let tolerance = logit_tolerance(&evidence.environment.dtype) * live_from_base.max(1.0);
    let complete = reload.lost.is_empty() && reload.loaded == reload.saved;
    if complete
        && reload
            .difference_from_live
            .is_some_and(|difference| difference <= tolerance)
    {
        return Outcome::Pass;
    }
    Finding::new(
        headline(reload, evidence.settings.fine_tune),
        format!(
            "{} saved, {} came back, {} lost or altered; {}",
            counted(reload.saved, "tensor"),
            grouped(reload.loaded as u64),
            grouped(reload.lost.total as u64),
            match &reload.refused {
                Some(_) => "a strict loader refuses the file".to_owned(),
                None => format!(
                    "logits differ from the live model's by up to {}",
                    difference(reload.difference_from_live)
                ),
            }
        ),
        format!("every tensor back bit for bit, logits within {}", shortest(tolerance)),
    )
    .at(&reload.lost)
    .with("saved", reload.saved)
    .with("loaded", reload.loaded)
    .with("lost", &reload.lost)
    .with("difference_from_live", reload.difference_from_live)
    .with("live_from_base", reload.live_from_base)
    .with("tolerance", tolerance)
    .with("refused", reload.refused.clone())
    .fix(Fix::by_hand(
        "save every changed parameter under its name in the parameter tree, and load strictly: missing and unexpected \
         names must be errors",
    ))
    .into()
}

fn headline(reload: &ReloadEvidence, fine_tune: FineTuneKind) -> String {
    let what = match fine_tune {
        FineTuneKind::Lora => "adapter",
        FineTuneKind::Full => "model",
    };
    if reload.saved == 0 {
        return format!("nothing was saved, so the reloaded {what} is not the trained one");
    }
    match reload.lost.total {
        0 => format!("the reloaded {what} answers differently from the trained one"),
        lost => format!("the reloaded {what} lost or altered {}", counted(lost, "tensor")),
    }
}
