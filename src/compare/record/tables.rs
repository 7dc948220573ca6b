//! Requests and samples of memory as CSV. Times are in seconds since the test began, sizes in bytes; what is not known is empty.

use std::io;

use super::{FailureKind, MemorySample, ProcessSample, RequestRecord};

/// Between values within one cell.
const SEPARATOR: &str = " ";

/// Name of the row that stands for all processes of a sample.
const ALL_PROCESSES: &str = "all";

fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The name of a kind of failure as in JSON.
fn name_of(kind: FailureKind) -> io::Result<String> {
    Ok(serde_json::to_string(&kind)?.trim_matches('"').to_owned())
}

fn written(rows: csv::Writer<Vec<u8>>) -> io::Result<Vec<u8>> {
    rows.into_inner().map_err(csv::IntoInnerError::into_error)
}

/// One row for each request, in the order in which they were due.
pub fn requests_csv(requests: &[RequestRecord]) -> io::Result<Vec<u8>> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    rows.write_record([
        "group",
        "concurrency",
        "due",
        "sent",
        "headers",
        "first_piece",
        "ended",
        "pieces",
        "characters",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "counted_tokens",
        "server_first_token",
        "server_prompt_tokens",
        "server_prompt",
        "server_generated_tokens",
        "server_generation",
        "server_tokens_per_second",
        "server_load",
        "failure",
        "reason",
        "hint",
        "text",
    ])?;
    for request in requests {
        let (usage, timings, times) = (request.usage, request.timings, &request.times);
        let pieces: Vec<String> = times.pieces.iter().map(f64::to_string).collect();
        let failure = request.failure.as_ref();
        rows.write_record([
            request.group.clone(),
            request.concurrency.to_string(),
            request.due.to_string(),
            times.sent.to_string(),
            cell(times.headers),
            cell(times.pieces.first()),
            times.ended.to_string(),
            pieces.join(SEPARATOR),
            request.characters.to_string(),
            cell(request.finish_reason.as_ref()),
            cell(usage.map(|usage| usage.prompt_tokens)),
            cell(usage.map(|usage| usage.completion_tokens)),
            cell(usage.and_then(|usage| usage.cached_tokens)),
            cell(request.counted_tokens),
            cell(timings.and_then(|timings| timings.first_token)),
            cell(timings.and_then(|timings| timings.prompt_tokens)),
            cell(timings.and_then(|timings| timings.prompt)),
            cell(timings.and_then(|timings| timings.generated_tokens)),
            cell(timings.and_then(|timings| timings.generation)),
            cell(timings.and_then(|timings| timings.tokens_per_second)),
            cell(timings.and_then(|timings| timings.load)),
            cell(failure.map(|failure| name_of(failure.kind)).transpose()?),
            cell(failure.map(|failure| &failure.reason)),
            cell(failure.and_then(|failure| failure.hint.as_ref())),
            request.text.clone(),
        ])?;
    }
    written(rows)
}

/// One row for each process of each sample, after a row for all of them together.
pub fn memory_csv(samples: &[MemorySample]) -> io::Result<Vec<u8>> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    rows.write_record([
        "at",
        "pid",
        "name",
        "charged",
        "resident",
        "proportional",
        "anonymous",
        "file",
        "footprint",
        "wired",
        "machine_available",
        "machine_wired",
    ])?;
    for sample in samples {
        let sum = |field: fn(&ProcessSample) -> Option<u64>| {
            cell(sample.processes.iter().filter_map(field).reduce(u64::saturating_add))
        };
        rows.write_record([
            sample.at.to_string(),
            String::new(),
            ALL_PROCESSES.to_owned(),
            cell(sample.charged()),
            sum(|process| process.resident),
            sum(|process| process.proportional),
            sum(|process| process.anonymous),
            sum(|process| process.file),
            sum(|process| process.footprint),
            sum(|process| process.wired),
            cell(sample.available),
            cell(sample.wired),
        ])?;
        for process in &sample.processes {
            rows.write_record([
                sample.at.to_string(),
                process.pid.to_string(),
                process.name.clone(),
                cell(process.charged()),
                cell(process.resident),
                cell(process.proportional),
                cell(process.anonymous),
                cell(process.file),
                cell(process.footprint),
                cell(process.wired),
                String::new(),
                String::new(),
            ])?;
        }
    }
    written(rows)
}
