//! Memory over time: one panel for each format, with the same axes, and the phases of the test as flags.

use super::lettering::{fitted, width};
use super::panel::{Across, Panel};
use super::phases::{bands, flags};
use super::sheet::{Anchor, BOLD, Drawn, Entry, MARGIN, ORDINARY, SMALL, Sheet, WIDTH};
use crate::compare::analysis::Samples;
use crate::compare::report::order::tests;
use crate::compare::report::quantity::{Scale, counted, shown};
use crate::compare::{Format, MemorySample, ProcessSample, Record, TestRecord, Unit};
use crate::report::Axis;

const HEIGHT: f64 = 170.0;
/// Height of a line of flags.
const FLAG: f64 = 15.0;

/// One test with its samples.
struct Course<'record> {
    test: &'record TestRecord,
    samples: &'record [MemorySample],
}

impl Course<'_> {
    fn end(&self) -> f64 {
        let phases = self.test.phases.iter().map(|phase| phase.end);
        let samples = self.samples.iter().map(|sample| sample.at);
        phases.chain(samples).filter(|end| end.is_finite()).fold(0.0, f64::max)
    }

    fn charged(&self) -> Vec<(f64, Option<f64>)> {
        self.values(|sample| sample.charged().map(|bytes| bytes as f64))
    }

    /// The sum of a number over all processes; `None` where one of them does not have it.
    fn sum(&self, number: fn(&ProcessSample) -> Option<u64>) -> Vec<(f64, Option<f64>)> {
        self.values(|sample| {
            let known: Option<u64> = sample.processes.iter().map(number).sum();
            known.filter(|_| !sample.processes.is_empty()).map(|bytes| bytes as f64)
        })
    }

    fn values(&self, value: impl Fn(&MemorySample) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        let values = self.samples.iter().map(|sample| (sample.at, value(sample)));
        values.filter(|(at, _)| at.is_finite()).collect()
    }
}

/// A panel's courses: the first round in full, the others as thin lines.
struct Side<'record> {
    format: Format,
    first: Course<'record>,
    others: Vec<Course<'record>>,
}

/// Memory of a pair in a scenario; `None` where there is no sample of it.
pub(super) fn plot(record: &Record, samples: &Samples, pair: &str, scenario: &str, file: String) -> Option<Drawn> {
    let sides: Vec<Side> = Format::ALL
        .into_iter()
        .filter_map(|format| side(record, samples, pair, scenario, format))
        .collect();
    if sides.is_empty() {
        return None;
    }
    let courses = || {
        sides
            .iter()
            .flat_map(|side| std::iter::once(&side.first).chain(&side.others))
    };
    let highest = courses()
        .flat_map(|course| {
            let stacked = stacked(course).into_iter().flat_map(|(_, upper)| upper);
            course.charged().into_iter().chain(stacked)
        })
        .filter_map(|(_, bytes)| bytes)
        .reduce(f64::max);
    let Some(highest) = highest else {
        return Some(Err(format!(
            "Memory over time is not drawn for `{scenario}`: the system tells nothing of the server's processes."
        )));
    };
    let scale = Scale::of(Unit::Bytes, highest);
    let up = Axis::linear(&[0.0, scale.apply(highest)]);
    let end = courses().map(Course::end).fold(0.0, f64::max);
    let across = Axis::linear(&[0.0, end]);
    let mut sheet = Sheet::new("Memory over time", &format!("{pair}, {scenario}"));
    sheet.legend(&legend(&sides));
    for side in &sides {
        draw(&mut sheet, side, across, up, scale);
    }
    let peaks: Vec<String> = sides.iter().filter_map(described).collect();
    Some(Ok(sheet.finish(file, peaks.join("; "))))
}

fn side<'record>(
    record: &'record Record,
    samples: &'record Samples,
    pair: &str,
    scenario: &str,
    format: Format,
) -> Option<Side<'record>> {
    let mut courses = tests(record, pair, scenario, format).into_iter().filter_map(|test| {
        let samples = samples.get(&test.key).filter(|samples| !samples.is_empty())?;
        Some(Course { test, samples })
    });
    Some(Side {
        format,
        first: courses.next()?,
        others: courses.collect(),
    })
}

type Values = Vec<(f64, Option<f64>)>;

/// Anonymous memory, and anonymous memory and files together, where the system tells them.
fn stacked(course: &Course) -> Option<(Values, Values)> {
    let anonymous = course.sum(|process| process.anonymous);
    let files = course.sum(|process| process.file);
    let both: Values = anonymous
        .iter()
        .zip(&files)
        .map(|((at, one), (_, other))| (*at, one.zip(*other).map(|(one, other)| one + other)))
        .collect();
    both.iter()
        .any(|(_, value)| value.is_some())
        .then_some((anonymous, both))
}

fn described(side: &Side) -> Option<String> {
    let charged = side.first.charged();
    let peak = charged.iter().filter_map(|(_, bytes)| *bytes).reduce(f64::max)?;
    Some(format!(
        "{}: peak {} in {}",
        side.format.title(),
        shown(Unit::Bytes, peak),
        counted(charged.len(), "sample")
    ))
}

fn draw(sheet: &mut Sheet, side: &Side, across: Axis, up: Axis, scale: Scale) {
    let test = side.first.test;
    let top = sheet.bottom + 6.0;
    let mut panel = Panel {
        left: MARGIN + Panel::LEFT_LABELS,
        right: WIDTH - MARGIN - 8.0,
        top: 0.0,
        bottom: 0.0,
        across: Across::Numbers(across),
        up,
    };
    let (flags, hidden) = flags(&test.phases, &panel);
    let more = match hidden {
        0 => String::new(),
        hidden => format!("and {}", counted(hidden, "more phase")),
    };
    sheet.text("small", panel.right, top + 12.0, Anchor::End, &more);
    let room = panel.right - MARGIN - width(&more, SMALL) - 8.0;
    let title = fitted(&title(test), ORDINARY * BOLD, room);
    sheet.text("strong", MARGIN, top + 12.0, Anchor::Start, &title);
    let lines = flags.iter().map(|flag| flag.line + 1).max().unwrap_or(0);
    let flags_top = top + 20.0;
    panel.top = flags_top + lines as f64 * FLAG + 8.0 + Panel::UPPER_TITLE;
    panel.bottom = panel.top + HEIGHT;
    for [begin, end] in bands(&test.phases) {
        sheet.rectangle("band", [panel.x(begin), panel.top, panel.x(end), panel.bottom]);
    }
    panel.frame(sheet, "seconds since the test began", scale.name);
    for flag in &flags {
        let foot = flags_top + (flag.line + 1) as f64 * FLAG;
        let pole = format!("M{:.1} {:.1}V{:.1}", flag.begin, foot - FLAG + 3.0, panel.bottom);
        sheet.path("flag", &pole);
        sheet.text("small", flag.letters, foot, Anchor::Start, &flag.words);
    }
    courses(sheet, side, &panel, scale);
    sheet.bottom = panel.bottom + Panel::LOWER_LABELS + 4.0;
}

/// The format, who served, and which round.
fn title(test: &TestRecord) -> String {
    let server = test.server.as_ref().map_or_else(String::new, |server| {
        let version = server.version.iter().map(|version| format!(" {version}"));
        format!(", {}{}", server.kind.name(), version.collect::<String>())
    });
    format!("{}{server}, round {}", test.key.format.title(), test.key.round + 1)
}

fn courses(sheet: &mut Sheet, side: &Side, panel: &Panel, scale: Scale) {
    let name = side.format.name();
    let scaled = |values: Values| -> Values {
        let scale = |(at, value): (f64, Option<f64>)| (at, value.map(|value| scale.apply(value)));
        values.into_iter().map(scale).collect()
    };
    if let Some((anonymous, both)) = stacked(&side.first) {
        sheet.path(&format!("area pale {name}"), &panel.area(&scaled(both)));
        sheet.path(&format!("area {name}"), &panel.area(&scaled(anonymous)));
    }
    for course in &side.others {
        sheet.path(&format!("line thin {name}"), &panel.line(&scaled(course.charged())));
    }
    sheet.path(
        &format!("line solid {name}"),
        &panel.line(&scaled(side.first.charged())),
    );
}

fn legend(sides: &[Side]) -> Vec<Entry> {
    let formats: Vec<&str> = sides.iter().map(|side| side.format.name()).collect();
    // Where both formats are drawn, a sample has a half in each colour.
    let part = 24.0 / formats.len() as f64;
    let halves = |draw: &dyn Fn(&str, f64) -> String| -> String {
        let parts = formats.iter().enumerate();
        parts.map(|(index, name)| draw(name, index as f64 * part)).collect()
    };
    let line = |class: &str| {
        halves(&|name, left| format!("<path class=\"line {class} {name}\" d=\"M{left:.1} 6h{part:.1}\"/>"))
    };
    let area = |class: &str| {
        halves(&|name, left| format!("<path class=\"{class} {name}\" d=\"M{left:.1} 0h{part:.1}v12h-{part:.1}z\"/>"))
    };
    let entry = |sample: String, words: &str| Entry {
        sample,
        words: words.to_owned(),
    };
    let mut entries = vec![entry(line("solid"), "charged, all processes together")];
    if sides.iter().any(|side| stacked(&side.first).is_some()) {
        entries.push(entry(area("area"), "anonymous"));
        entries.push(entry(area("area pale"), "pages of files, on top"));
    }
    if sides.iter().any(|side| !side.others.is_empty()) {
        entries.push(entry(line("thin"), "charged, other rounds"));
    }
    entries
}
