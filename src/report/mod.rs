//! What a run found, for people and for programs: one report, one renderer per format.

mod answers;
mod costs;
mod curves;
mod document;
mod exit;
mod github;
mod html;
mod indicator;
mod json;
mod junit;
mod markdown;
mod phase;
mod regression;
mod remedy;
mod signal;
mod text;
mod update_map;
mod verdict;
mod wrap;

pub use answers::{AnswerPair, ShownAnswer};
pub use costs::Costs;
pub use curves::{CurvePoint, CurveStep, Curves};
pub use document::{CheckOutcome, REPORT_SCHEMA_VERSION, Report, ReportedCheck, ReportedFinding};
pub use exit::{EXIT_FAULT, EXIT_HEALTHY, EXIT_INCOMPLETE, FailOn, exit_code};
pub use github::to_github;
pub use html::to_html;
pub use indicator::{Indicator, IndicatorStatus};
pub use json::to_json;
pub use junit::{JunitError, to_junit};
pub use markdown::to_markdown;
pub use phase::{Figure, PhaseReport, PhaseStatus};
pub use remedy::Remedy;
pub use signal::Signal;
pub use text::to_text;
pub use update_map::{UpdateKind, UpdateMap, UpdateSize};
pub use verdict::Verdict;
