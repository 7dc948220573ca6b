//! The client's clock against the server's own.

use super::measure::{Measure, measured};
use crate::compare::{RequestRecord, TestRecord, Unit};

/// One request by both clocks, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BothClocks {
    pub(super) client: f64,
    pub(super) server: f64,
}

impl BothClocks {
    /// The difference as a share of the client's time.
    pub(super) fn apart(self) -> f64 {
        (self.client - self.server).abs() / self.client
    }
}

/// Every answer whose server tells how long it took, where no other request made it wait.
pub(super) fn both_clocks(tests: &[&TestRecord]) -> Vec<BothClocks> {
    let alone = measured(tests).filter(|request| request.failure.is_none() && request.concurrency == 1);
    alone.filter_map(of_request).collect()
}

fn of_request(request: &RequestRecord) -> Option<BothClocks> {
    let timings = request.timings?;
    let client = request.times.ended - request.times.sent;
    let server = timings.prompt? + timings.generation? + timings.load.unwrap_or(0.0);
    // A negative time is none.
    (client > 0.0 && server >= 0.0).then_some(BothClocks { client, server })
}

/// How far they are apart.
pub(super) fn measure(tests: &[&TestRecord]) -> Measure {
    Measure::new(
        "difference-from-server-times",
        "Difference from the server's own times: |(end \u{2212} sent) \u{2212} (prompt + generation)| / (end \u{2212} sent)",
        Unit::Share,
        None,
        both_clocks(tests).into_iter().map(BothClocks::apart).collect(),
    )
}
