use serde::{Deserialize, Serialize};

/// What one probe cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeCost {
    /// The probe, in kebab case.
    pub probe: String,
    /// Seconds beyond what the run needs without it.
    pub seconds: f64,
}
