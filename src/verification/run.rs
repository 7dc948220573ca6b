use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use thiserror::Error;

use super::category::Category;
use super::check::{Check, CheckResult, Work};
use super::golden_files::GOLDEN_MODELS;
use super::record::{CategoryRecord, CheckRecord, Outcome, VERIFICATION_SCHEMA_VERSION, Verification};
use super::session::{EXACT, Session};
use crate::device::{BackendError, BackendKind, PrecisionChoice, Selection};
use crate::evidence::RunEnvironment;
use crate::interrupt::Interrupt;
use crate::panic_message::panic_message;
use crate::suggestion::closest;

/// What is to be verified.
#[derive(Debug, Clone, Default)]
pub struct VerificationOptions {
    /// Where to compute; `None` for what a run would use.
    pub backend: Option<BackendKind>,
    /// The only categories wanted; empty for all.
    pub only: Vec<Category>,
}

/// Why nothing could be verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// There is no such device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The system gives no folder to lay out the models in.
    #[error(
        "there is no folder for what the checks write and read\n  found: {0}\n  expected: a folder for temporary files with room for some megabytes\n  hint: name another one by `TMPDIR`"
    )]
    Folder(#[from] std::io::Error),
}

/// A category that there is not.
#[derive(Debug, Error)]
#[error("there is no category `{name}`\n  found: {name}\n  expected: one of {known}{}", suggestion.map_or_else(String::new, |name| format!("\n  hint: did you mean `{name}`?")))]
pub struct UnknownCategory {
    name: String,
    known: String,
    suggestion: Option<&'static str>,
}

impl std::str::FromStr for Category {
    type Err = UnknownCategory;

    fn from_str(name: &str) -> Result<Self, UnknownCategory> {
        let names = Self::ALL.map(Self::name);
        Self::named(name).ok_or_else(|| UnknownCategory {
            name: if name.is_empty() { "(nothing)" } else { name }.to_owned(),
            known: names.join(", "),
            suggestion: closest(name, names),
        })
    }
}

/// Hears how many checks are done, of how many, and which one comes next; nothing more once the user has stopped it.
pub type Progress<'run> = dyn FnMut(usize, usize, &str) + 'run;

/// A check as it is made: once, or with one model.
struct Planned {
    category: Category,
    name: String,
    work: Box<dyn Fn(&Session<'_>) -> CheckResult>,
}

/// Makes every check of the categories that are wanted.
///
/// When the user stops it, the checks that are left are skipped.
///
/// # Errors
/// See [`VerifyError`]. What is wrong with the machine is a result, not an error.
pub fn verify(
    options: &VerificationOptions,
    interrupt: &Interrupt,
    progress: &mut Progress<'_>,
) -> Result<Verification, VerifyError> {
    let started = Instant::now();
    let (selection, faults) = Selection::with_faults(options.backend)?;
    let session = Session::new(&selection, &faults, interrupt)?;
    let planned: Vec<Planned> = wanted(options).flat_map(plan).collect();
    let mut categories: Vec<CategoryRecord> = wanted(options)
        .map(|category| CategoryRecord {
            category,
            checks: Vec::new(),
        })
        .collect();
    let mut interrupted = false;
    for (done, check) in planned.iter().enumerate() {
        interrupted = interrupt.is_requested();
        let record = if interrupted {
            left_out(check)
        } else {
            let name = format!("{}: {}", check.category.name(), check.name);
            progress(done, planned.len(), &name);
            made(check, &session)
        };
        if let Some(own) = categories.iter_mut().find(|own| own.category == check.category) {
            own.checks.push(record);
        }
    }
    if !interrupted {
        progress(planned.len(), planned.len(), "done");
    }
    Ok(Verification {
        schema_version: VERIFICATION_SCHEMA_VERSION,
        environment: environment(&selection),
        interrupted,
        seconds: started.elapsed().as_secs_f64(),
        categories,
    })
}

/// The machine, with the reasons for what is computed with: those of a run do not hold for the element type.
fn environment(selection: &Selection) -> RunEnvironment {
    let mut reasons = selection.reasons.clone();
    reasons.push("float32: what results are held against was computed in it".to_owned());
    RunEnvironment {
        reasons,
        ..selection.environment(EXACT, PrecisionChoice::default(), false)
    }
}

/// The categories and their checks, a line each.
pub fn list() -> String {
    let mut text = String::new();
    let mut count = 0;
    for category in Category::ALL {
        let _ = writeln!(text, "{:<12} {}", category.name(), category.subject());
        for check in category.checks() {
            let (each, own) = match check.work {
                Work::Once(_) => (String::new(), 1),
                Work::ForEachModel(_) => {
                    let models = GOLDEN_MODELS.len();
                    (format!(", with each of {models} models"), models)
                }
            };
            let _ = writeln!(text, "  {}{each}", check.name);
            count += own;
        }
    }
    let models = GOLDEN_MODELS.each_ref().map(|model| model.name).join(", ");
    let _ = writeln!(text, "\n{count} checks; the models are {models}");
    text
}

fn wanted(options: &VerificationOptions) -> impl Iterator<Item = Category> + '_ {
    let is_wanted = |category: &Category| options.only.is_empty() || options.only.contains(category);
    Category::ALL.into_iter().filter(is_wanted)
}

fn plan(category: Category) -> Vec<Planned> {
    let of_check = |check: &'static Check| -> Vec<Planned> {
        match check.work {
            Work::Once(work) => vec![Planned {
                category,
                name: check.name.to_owned(),
                work: Box::new(work),
            }],
            Work::ForEachModel(work) => GOLDEN_MODELS
                .iter()
                .map(|model| Planned {
                    category,
                    name: format!("{}, {}", check.name, model.name),
                    work: Box::new(move |session| work(session, model)),
                })
                .collect(),
        }
    };
    category.checks().iter().flat_map(of_check).collect()
}

fn left_out(check: &Planned) -> CheckRecord {
    CheckRecord {
        name: check.name.clone(),
        seconds: 0.0,
        outcome: Outcome::Skipped {
            reason: "interrupted before it began".to_owned(),
        },
    }
}

/// Makes one check; a panic ends that check alone.
fn made(check: &Planned, session: &Session<'_>) -> CheckRecord {
    let started = Instant::now();
    let outcome = match catch_unwind(AssertUnwindSafe(|| (check.work)(session))) {
        Ok(result) => result.into(),
        Err(panic) => Outcome::Crashed {
            error: panic_message(&*panic),
        },
    };
    CheckRecord {
        name: check.name.clone(),
        seconds: started.elapsed().as_secs_f64(),
        outcome,
    }
}
