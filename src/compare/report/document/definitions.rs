//! What the words of a report mean: tools differ in them.

use super::{Block, Prose, Table, words};
use crate::compare::Record;

/// Terms and what they stand for.
const TERMS: [(&str, &str); 13] = [
    (
        "time to first token (TTFT)",
        "from when a request was due to the first piece of its answer that is not empty: content, reasoning or a tool call. \
         Headers, role announcements and keep-alive comments do not count",
    ),
    (
        "due",
        "when a request was to be sent. A request that had to wait since the server fell behind counts its waiting",
    ),
    (
        "time per output token (TPOT)",
        "(end of the answer - first piece) / (tokens of the answer - 1): the first token is not in it",
    ),
    (
        "inter-token latency",
        "between two pieces of a stream that follow one another; a piece may hold several tokens",
    ),
    (
        "end-to-end latency",
        "from when a request was due to the end of its answer",
    ),
    (
        "tokens/s of writing",
        "(tokens of the answer - 1) / (end of the answer - first piece), for one request",
    ),
    (
        "tokens/s of reading",
        "(tokens of the prompt - those from a cache) / time to first token, for one request",
    ),
    (
        "throughput",
        "tokens of all answers of a group / (end of its last request - when its first one was due)",
    ),
    (
        "tokens",
        "of answers, as the server counts, else as the side's own tokenizer counts the text, else pieces of the stream; of \
         prompts, as the server counts, its chat template included",
    ),
    (
        "charged memory",
        "what the system charges the server's processes with, all together: the physical footprint on macOS, the proportional \
         set size (PSS) on Linux, elsewhere what is resident",
    ),
    (
        "anonymous, files, wired",
        "of what is resident on Linux, what no file holds and pages of files, mapped weights among them; on macOS, what the \
         whole machine cannot page out",
    ),
    (
        "leak",
        "one settled value of memory after each request, warm-ups left out; the slope is the median of the slopes of all pairs \
         of values (Theil 1950, Sen 1968) with a bootstrap interval of 95%. It is a leak only where the lower end of the interval \
         is above what matters in practice and the second half still rises; a cache that fills rises and then settles",
    ),
    (
        "better",
        "beyond the noise: the whole interval of the ratio is away from 1 by more than a margin, which is wider where there are \
         few values",
    ),
];

/// The definitions, and where every value is kept.
pub(super) fn definitions(record: &Record) -> Vec<Block> {
    let mut table = Table::new("Definitions", ["term", "meaning"].map(words).to_vec());
    let rows = TERMS
        .iter()
        .map(|(term, meaning)| vec![Prose::plain(*term), Prose::plain(*meaning)]);
    table.rows.extend(rows);
    vec![
        Block::Table(table),
        Block::Paragraph(Prose::new(&format!(
            "GB, MB and kB are 1e9, 1e6 and 1e3 bytes. `test_results.json` (schema {}) holds what was measured, `metrics` every \
             sample.",
            record.schema_version
        ))),
    ]
}
