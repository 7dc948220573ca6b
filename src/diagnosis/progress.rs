use crate::rules::Phase;

/// Where a run tells how far it is.
pub trait Progress {
    /// A phase begins; `units` is how many parts it has, when that is known.
    fn phase(&mut self, phase: Phase, units: Option<usize>);

    /// Work beside the five phases begins, for example `the reference trainer`.
    fn beside(&mut self, work: &str, units: Option<usize>);

    /// `done` parts of the phase are done; `message` says something about the last one.
    fn advance(&mut self, done: usize, message: &str);

    /// The phase is over.
    fn finish(&mut self, message: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _phase: Phase, _units: Option<usize>) {}

    fn beside(&mut self, _work: &str, _units: Option<usize>) {}

    fn advance(&mut self, _done: usize, _message: &str) {}

    fn finish(&mut self, _message: &str) {}
}
