//! Speed against the number of requests at one time.

use std::collections::{BTreeMap, BTreeSet};

use super::panel::{Across, Panel};
use super::requests::{answered, measured, quartiles};
use super::sheet::{Anchor, Drawn, Entry, Sheet, line_sample};
use crate::compare::analysis::{throughput, time_to_first_token};
use crate::compare::report::order::tests;
use crate::compare::report::quantity::shown;
use crate::compare::{Format, Outcome, Record, RequestRecord, TestRecord, Unit};
use crate::report::Axis;

const HEIGHT: f64 = 200.0;
/// Height of the title of a panel.
const TITLE: f64 = 22.0;

/// Values by the number of requests at one time.
type Levels = BTreeMap<usize, Vec<f64>>;

/// What one panel shows.
struct Part {
    title: &'static str,
    unit: Unit,
    axis: &'static str,
    /// GGUF, then MLX.
    values: [Levels; 2],
}

/// Speed of a pair in a scenario; `None` where it did not send different numbers of requests at one time.
pub(super) fn plot(record: &Record, pair: &str, scenario: &str, file: String) -> Option<Drawn> {
    let sides = Format::ALL.map(|format| tests(record, pair, scenario, format));
    let levels: BTreeSet<usize> = sides
        .iter()
        .flatten()
        .flat_map(|test| answered(test))
        .map(|request| request.concurrency)
        .collect();
    if levels.len() < 2 {
        return None;
    }
    let parts = [
        Part {
            title: "Throughput: more is better",
            unit: Unit::TokensPerSecond,
            axis: "tokens/s",
            values: sides.each_ref().map(|tests| throughputs(tests)),
        },
        Part {
            title: "Time to first token: less is better",
            unit: Unit::Seconds,
            axis: "seconds",
            values: sides.each_ref().map(|tests| first_tokens(tests)),
        },
    ];
    let levels: Vec<usize> = levels.into_iter().collect();
    let mut sheet = Sheet::new("Speed against requests at one time", &format!("{pair}, {scenario}"));
    sheet.legend(&legend(&parts));
    let top = sheet.bottom;
    let mut described = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let (begin, _) = Panel::half(index);
        sheet.text("strong", begin, top + 12.0, Anchor::Start, part.title);
        let all: Vec<f64> = part
            .values
            .iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .copied()
            .collect();
        if all.is_empty() {
            sheet.text(
                "soft",
                begin,
                top + 40.0,
                Anchor::Start,
                "not known: no answer has a token",
            );
            continue;
        }
        let up = Axis::linear(&[&[0.0], all.as_slice()].concat());
        let panel = Panel::beside(index, top + TITLE, HEIGHT, Across::Levels(levels.clone()), up);
        panel.frame(&mut sheet, "requests at one time", part.axis);
        for (format, values) in Format::ALL.into_iter().zip(&part.values) {
            described.extend(draw(&mut sheet, &panel, format, part, values));
        }
    }
    sheet.bottom = top + TITLE + Panel::UPPER_TITLE + HEIGHT + Panel::LOWER_LABELS;
    Some(Ok(sheet.finish(file, described.join("; "))))
}

/// Draws medians, quartiles and values, and returns the medians in words.
fn draw(sheet: &mut Sheet, panel: &Panel, format: Format, part: &Part, values: &Levels) -> Vec<String> {
    // Beside one another, so that neither hides the other.
    const SHIFT: f64 = 5.0;
    let shift = match format {
        Format::Gguf => -SHIFT,
        Format::Mlx => SHIFT,
    };
    let name = format.name();
    let mut line = Vec::new();
    let mut described = Vec::new();
    for (&level, values) in values {
        let Some([lower, median, upper]) = quartiles(values) else {
            continue;
        };
        let x = panel.x(level as f64) + shift;
        let places: BTreeSet<i64> = values.iter().map(|value| panel.y(*value).round() as i64).collect();
        for y in places {
            sheet.dot(format, x, y as f64);
        }
        let whisker = format!("M{x:.1} {:.1}V{:.1}", panel.y(lower), panel.y(upper));
        sheet.path(&format!("whisker {name}"), &whisker);
        line.push((x, panel.y(median)));
        described.push(format!(
            "{} at {level}, {}: {}",
            part.title.split(':').next().unwrap_or(part.title),
            format.title(),
            shown(part.unit, median)
        ));
    }
    let places: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    if !places.is_empty() {
        sheet.path(&format!("line {name}"), &format!("M{}", places.join("L")));
    }
    for (x, y) in line {
        sheet.mark(format, x, y);
    }
    described
}

/// One value for each level of each test that was finished: one that was cut short has requests that nothing followed.
fn throughputs(tests: &[&TestRecord]) -> Levels {
    let mut levels = Levels::new();
    for test in tests.iter().filter(|test| test.outcome == Outcome::Completed) {
        let mut requests: BTreeMap<usize, Vec<&RequestRecord>> = BTreeMap::new();
        for request in measured(test) {
            requests.entry(request.concurrency).or_default().push(request);
        }
        for (level, requests) in requests {
            if let Some(value) = throughput(&requests) {
                levels.entry(level).or_default().push(value);
            }
        }
    }
    levels
}

/// One value for each answer.
fn first_tokens(tests: &[&TestRecord]) -> Levels {
    let mut levels = Levels::new();
    for request in tests.iter().flat_map(|test| answered(test)) {
        if let Some(seconds) = time_to_first_token(request) {
            levels.entry(request.concurrency).or_default().push(seconds);
        }
    }
    levels
}

fn legend(parts: &[Part]) -> Vec<Entry> {
    let indexed = Format::ALL.into_iter().enumerate();
    let drawn = indexed.filter(|(index, _)| {
        let mut values = parts.iter().filter_map(|part| part.values.get(*index));
        values.any(|levels| !levels.is_empty())
    });
    let entry = |(_, format): (usize, Format)| Entry {
        sample: line_sample(format),
        words: format!("{}: median and quartiles; dots are values", format.title()),
    };
    drawn.map(entry).collect()
}
