//! An earlier result against this one: what got slower beyond its noise.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BenchResults, BenchSettings, Better, Measurement, SystemDescription, Unit};
use crate::thresholds::{FEWEST_SAMPLES, SLOWER_RATIO};

/// What a figure did since the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It got worse beyond the noise of both sides.
    Slower,
    /// It got better beyond the noise of both sides.
    Faster,
    /// The difference is within the noise, or too small to matter.
    Same,
    /// It cannot be told: there are too few values, or the figure is a share of others.
    NotJudged,
}

/// One figure then and now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its subject.
    pub subject: String,
    /// Its name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Its median in the baseline.
    pub then: f64,
    /// Its median now.
    pub now: f64,
    /// How many times better it is now: above 1 where it got better, whatever the unit; `None` where one of them is not
    /// above zero.
    pub times_better: Option<f64>,
    /// What that means.
    pub verdict: Verdict,
}

/// Two results compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// When the baseline's measurements began.
    pub baseline_began: String,
    /// Every figure of both, what got slower first, and the worst of it first.
    pub changes: Vec<Change>,
    /// Figures of the baseline only, of subjects that both measured, as `subject/figure`.
    pub only_then: Vec<String>,
    /// Figures of this result only, of subjects that both measured, as `subject/figure`.
    pub only_now: Vec<String>,
    /// What else differs and may be why, one sentence each without a final period.
    pub notes: Vec<String>,
}

impl Comparison {
    /// What got slower beyond its noise.
    pub fn slower(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.verdict == Verdict::Slower)
    }
}

/// Figures that say nothing about each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the baseline was measured otherwise, so that its figures cannot be compared: another {what}\n  found: {then}\n  \
     expected: {now}\n  hint: {hint}"
)]
pub struct Incomparable {
    /// What differs.
    pub what: String,
    /// What it was.
    pub then: String,
    /// What it is now.
    pub now: String,
    /// What to do.
    pub hint: &'static str,
}

impl Incomparable {
    /// Looks at what is known before anything is measured.
    ///
    /// # Errors
    /// The baseline is of another machine, backend, profile or model, or its work had other sizes.
    pub fn check(then: &BenchResults, system: &SystemDescription, settings: &BenchSettings) -> Result<(), Self> {
        const MEASURE: &str = "measure a baseline of its own here, with `--output-dir`, and compare with that";
        if let Some(difference) = system.difference_from(&then.system) {
            return Err(Self {
                what: difference.what.to_owned(),
                then: difference.then,
                now: difference.now,
                hint: if difference.what == "profile" {
                    "build both with `--release`"
                } else {
                    MEASURE
                },
            });
        }
        if then.settings.sizes != settings.sizes {
            return Err(Self {
                what: "size of the work".to_owned(),
                then: then.settings.sizes.to_string(),
                now: settings.sizes.to_string(),
                hint: "use `--tiny` for both or for neither, with models of the same context",
            });
        }
        Ok(())
    }
}

/// Compares the results, of which `then` is the earlier one.
///
/// # Errors
/// [`Incomparable`].
pub fn compare(then: &BenchResults, now: &BenchResults) -> Result<Comparison, Incomparable> {
    Incomparable::check(then, &now.system, &now.settings)?;
    if then.model != now.model {
        return Err(Incomparable {
            what: "model".to_owned(),
            then: format!("`{}`, {:?}", then.settings.model, then.model),
            now: format!("`{}`, {:?}", now.settings.model, now.model),
            hint: "give both the same `--model`",
        });
    }
    let mut changes: Vec<Change> = now
        .figures()
        .filter_map(|(subject, figure)| Some(change(subject, then.figure(subject, &figure.name)?, figure)))
        .collect();
    changes.sort_by(|one, other| {
        let is_slower = |change: &Change| change.verdict == Verdict::Slower;
        let by_size = || match (is_slower(one), one.times_better, other.times_better) {
            (true, Some(one), Some(other)) => one.total_cmp(&other),
            _ => std::cmp::Ordering::Equal,
        };
        is_slower(other).cmp(&is_slower(one)).then_with(by_size)
    });
    Ok(Comparison {
        baseline_began: then.began.clone(),
        changes,
        only_then: only_in(then, now),
        only_now: only_in(now, then),
        notes: notes(then, now),
    })
}

/// Figures of subjects that both measured, which `other` lacks.
fn only_in(one: &BenchResults, other: &BenchResults) -> Vec<String> {
    let measured = |name: &str| other.subjects.iter().any(|subject| subject.name == name);
    one.figures()
        .filter(|(subject, figure)| measured(subject) && other.figure(subject, &figure.name).is_none())
        .map(|(subject, figure)| format!("{subject}/{}", figure.name))
        .collect()
}

fn notes(then: &BenchResults, now: &BenchResults) -> Vec<String> {
    let mut notes: Vec<String> = [
        (
            "version of this program",
            &then.system.tool_version,
            &now.system.tool_version,
        ),
        ("version of MLX", &then.system.mlx_version, &now.system.mlx_version),
    ]
    .into_iter()
    .filter(|(_, then, now)| then != now)
    .map(|(what, then, now)| format!("the {what} was {then} and is {now}"))
    .collect();
    if then.system.product_threads != now.system.product_threads {
        notes.push("matrix products use another number of threads".to_owned());
    }
    for (when, warnings) in [
        ("of the baseline", then.system.warnings()),
        ("now", now.system.warnings()),
    ] {
        notes.extend(warnings.into_iter().map(|warning| format!("{when}: {warning}")));
    }
    notes
}

fn change(subject: &str, then: &Measurement, now: &Measurement) -> Change {
    Change {
        subject: subject.to_owned(),
        name: now.name.clone(),
        unit: now.unit,
        then: then.median,
        now: now.median,
        times_better: times_better(then, now),
        verdict: verdict(then, now),
    }
}

/// How many times better `now` is; above 1 where it is better.
fn times_better(then: &Measurement, now: &Measurement) -> Option<f64> {
    if then.median <= 0.0 || now.median <= 0.0 {
        return None;
    }
    Some(match now.unit.better()? {
        Better::Less => then.median / now.median,
        Better::More => now.median / then.median,
    })
}

/// What a figure did from `then` to `now`.
///
/// It moved where the medians are [`SLOWER_RATIO`] apart and no value of one side lies within the values of the other,
/// outliers by Tukey's fences left aside on both.
pub fn verdict(then: &Measurement, now: &Measurement) -> Verdict {
    let (Some(times), true) = (times_better(then, now), then.unit == now.unit) else {
        return Verdict::NotJudged;
    };
    let (Some(range_then), Some(range_now)) = (range(then), range(now)) else {
        return Verdict::NotJudged;
    };
    let is_apart = range_then.1 < range_now.0 || range_now.1 < range_then.0;
    if !is_apart || (1.0 / SLOWER_RATIO..=SLOWER_RATIO).contains(&times) {
        Verdict::Same
    } else if times < 1.0 {
        Verdict::Slower
    } else {
        Verdict::Faster
    }
}

/// The smallest and the largest value that is no outlier; `None` where there are too few values to know.
fn range(figure: &Measurement) -> Option<(f64, f64)> {
    let values = figure.samples.values();
    if values.len() < FEWEST_SAMPLES {
        return None;
    }
    let outliers = figure.samples.outliers();
    let within = || values.iter().copied().filter(|value| !outliers.contains(value));
    Some((within().reduce(f64::min)?, within().reduce(f64::max)?))
}
