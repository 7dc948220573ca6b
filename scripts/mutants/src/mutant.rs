//! What is read and what is printed.

use serde::{Deserialize, Serialize};

/// One entry of `cargo mutants --list --json`, numbered.
#[derive(Deserialize)]
pub struct Mutant {
    /// Its number at run time.
    pub number: usize,
    /// Path of the source file, from the root of the tree.
    pub file: String,
    /// What is changed.
    pub genre: Genre,
    /// Source text that takes the place of what `span` covers.
    pub replacement: String,
    /// What is replaced.
    pub span: Span,
}

/// The kinds of mutants of cargo-mutants 27.
#[derive(Clone, Copy, Deserialize)]
pub enum Genre {
    /// A function's body becomes a constant.
    FnValue,
    /// An operator becomes another one.
    BinaryOperator,
    /// A `!` or a `-` is taken away.
    UnaryOperator,
    /// A match arm is taken away.
    MatchArm,
    /// The guard of a match arm becomes a constant.
    MatchArmGuard,
    /// A field is taken from the expression of a structure that has a base.
    StructField,
}

/// From `start` up to but without `end`.
#[derive(Deserialize)]
pub struct Span {
    pub start: Place,
    pub end: Place,
}

/// Lines and columns are counted from one, columns in characters.
#[derive(Deserialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A mutant without a switch.
#[derive(Serialize)]
pub struct Inexpressible {
    pub number: usize,
    pub reason: &'static str,
}
