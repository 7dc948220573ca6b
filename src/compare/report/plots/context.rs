//! Speed by the length of the prompt: of reading it, and of writing the answer.

use super::panel::{Across, Panel};
use super::requests::{answered, prompt_tokens, quartiles, tests};
use super::sheet::{Anchor, Drawn, Entry, Sheet, line_sample};
use super::thresholds::ALIKE;
use crate::compare::analysis::{prompt_tokens_per_second, time_per_output_token};
use crate::compare::report::quantity::{counted, shown};
use crate::compare::{Format, Record, RequestRecord, Unit};
use crate::report::Axis;

const HEIGHT: f64 = 200.0;
/// Height of the title of a panel.
const TITLE: f64 = 22.0;

/// One answer: tokens of its prompt, tokens in a second.
type Point = (f64, f64);

/// The answers of one format, by the length of the prompt.
struct Series {
    format: Format,
    points: Vec<Point>,
}

impl Series {
    /// The medians of answers to prompts of about the same length.
    fn medians(&self) -> Vec<Point> {
        let mut medians = Vec::new();
        let mut rest = self.points.as_slice();
        while let Some((shortest, _)) = rest.first() {
            let count = rest.partition_point(|(length, _)| *length <= shortest * ALIKE);
            let (alike, longer) = rest.split_at(count.max(1));
            let [lengths, speeds] = [|point: &Point| point.0, |point: &Point| point.1]
                .map(|part| quartiles(&alike.iter().map(part).collect::<Vec<f64>>()));
            medians.extend(
                lengths
                    .zip(speeds)
                    .map(|([_, length, _], [_, speed, _])| (length, speed)),
            );
            rest = longer;
        }
        medians
    }
}

pub(super) fn plot(record: &Record, pair: &str, file: String) -> Drawn {
    let parts = [
        ("Reading the prompt", series(record, pair, prompt_tokens_per_second)),
        ("Writing the answer", series(record, pair, writing_speed)),
    ];
    let lengths: Vec<f64> = parts
        .iter()
        .flat_map(|(_, series)| series.iter().flat_map(|series| &series.points))
        .map(|point| point.0)
        .collect();
    if lengths.is_empty() {
        return Err(
            "Speed by length of the prompt is not drawn: no server told how many tokens an answered prompt has."
                .to_owned(),
        );
    }
    let across = Axis::linear(&[&[0.0], lengths.as_slice()].concat());
    let mut sheet = Sheet::new("Tokens in a second by length of the prompt", pair);
    sheet.legend(&legend(&parts));
    let top = sheet.bottom;
    let mut described = Vec::new();
    for (index, (title, series)) in parts.iter().enumerate() {
        let (begin, _) = Panel::half(index);
        let title_text = format!("{title}: more is better");
        sheet.text("strong", begin, top + 12.0, Anchor::Start, &title_text);
        let speeds: Vec<f64> = series
            .iter()
            .flat_map(|series| &series.points)
            .map(|point| point.1)
            .collect();
        if speeds.is_empty() {
            let words = "not known: no answer has a second token";
            sheet.text("soft", begin, top + 40.0, Anchor::Start, words);
            continue;
        }
        let up = Axis::linear(&[&[0.0], speeds.as_slice()].concat());
        let panel = Panel::beside(index, top + TITLE, HEIGHT, Across::Numbers(across), up);
        panel.frame(&mut sheet, "tokens of the prompt", "tokens/s");
        for series in series {
            draw(&mut sheet, &panel, series);
            described.extend(words(title, series));
        }
    }
    sheet.bottom = top + TITLE + Panel::UPPER_TITLE + HEIGHT + Panel::LOWER_LABELS;
    Ok(sheet.finish(file, described.join("; ")))
}

fn draw(sheet: &mut Sheet, panel: &Panel, series: &Series) {
    let mut places: Vec<(i64, i64)> = series
        .points
        .iter()
        .map(|&(length, speed)| (panel.x(length).round() as i64, panel.y(speed).round() as i64))
        .collect();
    // Dots that fall on one another are drawn once.
    places.sort_unstable();
    places.dedup();
    for (x, y) in places {
        sheet.dot(series.format, x as f64, y as f64);
    }
    let medians = series.medians();
    let line: Vec<(f64, Option<f64>)> = medians.iter().map(|&(length, speed)| (length, Some(speed))).collect();
    sheet.path(&format!("line {}", series.format.name()), &panel.line(&line));
    for (length, speed) in medians {
        sheet.mark(series.format, panel.x(length), panel.y(speed));
    }
}

fn words(title: &str, series: &Series) -> Vec<String> {
    let medians = series.medians().into_iter().map(|(length, speed)| {
        format!(
            "{title}, {}: {} at {}",
            series.format.title(),
            shown(Unit::TokensPerSecond, speed),
            counted(length.round() as usize, "token")
        )
    });
    medians.collect()
}

/// Tokens in a second after the first one.
fn writing_speed(request: &RequestRecord) -> Option<f64> {
    let seconds = time_per_output_token(request).filter(|seconds| *seconds > 0.0)?;
    Some(seconds.recip())
}

/// Answers to requests that ran alone.
fn series(record: &Record, pair: &str, speed: fn(&RequestRecord) -> Option<f64>) -> Vec<Series> {
    let of_format = |format| {
        let requests = tests(record, pair, format).flat_map(answered);
        let alone = requests.filter(|request| request.concurrency <= 1);
        let point = |request: &RequestRecord| Some((prompt_tokens(request)? as f64, speed(request)?));
        let mut points: Vec<Point> = alone.filter_map(point).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        Series { format, points }
    };
    let all = Format::ALL.into_iter().map(of_format);
    all.filter(|series| !series.points.is_empty()).collect()
}

fn legend(parts: &[(&str, Vec<Series>)]) -> Vec<Entry> {
    let is_drawn = |format: Format| {
        parts
            .iter()
            .any(|(_, series)| series.iter().any(|series| series.format == format))
    };
    let entry = |format: Format| Entry {
        sample: line_sample(format),
        words: format!("{}: medians; a dot is one answer", format.title()),
    };
    Format::ALL
        .into_iter()
        .filter(|&format| is_drawn(format))
        .map(entry)
        .collect()
}
