use crate::rules::Severity;

/// Through what a fault acts, which decides what it can be combined with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts {
    /// Settings, files, rows or memory: it combines with any other fault.
    OnInputs,
    /// A step of the workflow: it combines with faults on inputs.
    OnSteps,
}

/// What a right diagnosis of an operator says.
#[derive(Debug, Clone, Copy)]
pub struct Expectation {
    /// The operator.
    pub operator: &'static str,
    /// Rules whose finding names the fault, the primary one first; empty for a mutant that is benign by design.
    pub names: &'static [&'static str],
    /// The lowest severity at which such a finding counts: below a warning for what stock mlx-lm does by default.
    pub least: Severity,
    /// Through what it acts.
    pub acts: Acts,
}

/// What is expected of every operator, in the order of the operators.
pub static EXPECTED: &[Expectation] = &[];
