//! What the words of a report mean: tools differ in them.

use super::{Block, Prose, Table, words};
use crate::compare::Record;
use crate::compare::analysis::thresholds::{
    FAILED_SHARE, LEAK_BYTES_PER_REQUEST, MARGIN, MARGIN_OF_FEW_BYTES, MARGIN_OF_FEW_TIMES, MEASURES_FOR_CERTAINTY,
    PARITY_NATS, PARITY_SHARE, VALUES_FOR_INTERVAL, VALUES_FOR_NOISE, WINS_FOR_ONE_LOSS,
};

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
         is above what matters in practice, the second half still rises, the end lies above all before it, and a run without \
         prompt cache does so too",
    ),
    (
        "settles, grows",
        "memory settles where it rose and does not go on to rise steadily; it grows where it rose to the last request with the \
         prompt cache on, and without the cache it did not or was not asked: a cache that was not full yet, or a leak",
    ),
];

/// The definitions, and where every value is kept.
pub(super) fn definitions(record: &Record) -> Vec<Block> {
    let mut table = Table::new("Definitions", ["term", "meaning"].map(words).to_vec());
    let terms = TERMS.iter().map(|(term, meaning)| (*term, (*meaning).to_owned()));
    let rows = terms.chain(rules());
    table
        .rows
        .extend(rows.map(|(term, meaning)| vec![Prose::plain(term), Prose::plain(meaning)]));
    vec![
        Block::Table(table),
        Block::Paragraph(Prose::new(&format!(
            "GB, MB and kB are 1e9, 1e6 and 1e3 bytes. `test_results.json` (schema {}) holds what was measured, `metrics` every \
             sample.",
            record.schema_version
        ))),
    ]
}

/// How a verdict comes about, by the thresholds that it is judged by.
fn rules() -> [(&'static str, String); 5] {
    let percent = |share: f64| format!("{:.0}%", 100.0 * share);
    [
        (
            "better",
            format!(
                "of one measure: the ratio of medians, with the whole of its interval where it has one, is away from 1 by more \
                 than {}; with fewer than {VALUES_FOR_NOISE} values on a side, of which the noise is not known, by more than {} \
                 for times and {} for bytes. An interval is shown from {VALUES_FOR_INTERVAL} values on; below that every value of \
                 one side must be so far from every value of the other",
                percent(MARGIN - 1.0),
                percent(MARGIN_OF_FEW_TIMES - 1.0),
                percent(MARGIN_OF_FEW_BYTES - 1.0),
            ),
        ),
        (
            "serves better",
            format!(
                "six measures decide: time to first token, time per output token and peak memory of short questions \
                 (simple-generation, else the first scenario that has them), time to first token of the longest prompts, \
                 throughput at the most requests at a time, and time to load. A format serves better that is better in at least \
                 one, and in {WINS_FOR_ONE_LOSS} for each in which the other is. A leak, failed requests and tests that the \
                 server broke off count for the other; no format serves better that leaks, breaks off, or fails more than {} of \
                 its requests. Requests that a server refused, as without a key, count against nobody",
                percent(FAILED_SHARE)
            ),
        ),
        (
            "confidence",
            format!(
                "high: all measures that decide agree, {MEASURES_FOR_CERTAINTY} or more of them; medium: more than half do, or \
                 {MEASURES_FOR_CERTAINTY} or more are alike; low: they contradict each other, fewer than \
                 {MEASURES_FOR_CERTAINTY} were measured, or fewer than {VALUES_FOR_NOISE} short questions were answered; none: \
                 too little was measured"
            ),
        ),
        (
            "the same model",
            format!(
                "both formats give probabilities to the next word at places of one text. They hold the same model where half of \
                 the places differ by no more than a factor of {:.2}, and at {} of them or more the word is the likeliest with \
                 both or with neither",
                PARITY_NATS.exp(),
                percent(PARITY_SHARE)
            ),
        ),
        (
            "what matters in practice",
            format!(
                "for a leak, {:.0} KiB with each request",
                LEAK_BYTES_PER_REQUEST / 1024.0
            ),
        ),
    ]
}
