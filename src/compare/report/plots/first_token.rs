//! Time to first token of every answer, by scenario and group.

use std::collections::BTreeSet;

use super::lettering::fitted;
use super::panel::{Across, Panel};
use super::requests::{answered, quartiles, tests};
use super::sheet::{Anchor, Drawn, Entry, MARGIN, ORDINARY, Sheet, WIDTH, mark};
use super::thresholds::FAR_APART;
use crate::compare::analysis::{CONTEXT, group_name, group_title, time_to_first_token};
use crate::compare::report::order::scenarios;
use crate::compare::report::quantity::shown;
use crate::compare::{Format, Record, Unit};
use crate::report::Axis;

/// Room for the names of scenarios and groups, and for the medians in words.
const NAMES: f64 = 210.0;
const MEDIANS: f64 = 84.0;
/// Height of one format's row, and the distance of two groups.
const ROW: f64 = 20.0;
const GAP: f64 = 10.0;

/// What was sent together, with the seconds of each format.
struct Group {
    name: String,
    seconds: [Vec<f64>; 2],
}

pub(super) fn plot(record: &Record, pair: &str, file: String) -> Drawn {
    let groups = groups(record, pair);
    let all: Vec<f64> = groups.iter().flat_map(|group| group.seconds.concat()).collect();
    if all.is_empty() {
        return Err("Time to first token is not drawn: no measured request was answered.".to_owned());
    }
    let axis = axis(&all);
    let mut sheet = Sheet::new("Time to first token, from when a request was due", pair);
    sheet.legend(&legend());
    let rows = |group: &Group| group.seconds.iter().filter(|seconds| !seconds.is_empty()).count() as f64;
    let height: f64 = groups.iter().map(|group| rows(group) * ROW + GAP).sum();
    let panel = Panel {
        left: MARGIN + NAMES,
        right: WIDTH - MARGIN - MEDIANS,
        top: sheet.bottom,
        bottom: sheet.bottom + height,
        across: Across::Numbers(axis),
        up: Axis::linear(&[]),
    };
    let unit = if axis.is_logarithmic() {
        "seconds, powers of ten at equal distances: less is better"
    } else {
        "seconds: less is better"
    };
    panel.frame_below(&mut sheet, unit);
    let mut described = Vec::new();
    let mut top = panel.top + GAP / 2.0;
    for group in &groups {
        let name = fitted(&group.name, ORDINARY, NAMES - 10.0);
        let middle = top + rows(group) * ROW / 2.0;
        sheet.text("", panel.left - 10.0, middle + 4.0, Anchor::End, &name);
        for (format, seconds) in Format::ALL.into_iter().zip(&group.seconds) {
            let Some(median) = row(&mut sheet, &panel, top + ROW / 2.0, format, seconds) else {
                continue;
            };
            described.push(format!("{}, {}: median {median}", group.name, format.title()));
            top += ROW;
        }
        top += GAP;
    }
    sheet.bottom = panel.bottom + Panel::LOWER_LABELS;
    Ok(sheet.finish(file, described.join("; ")))
}

/// Draws the values of one format and returns their median in words; `None` without values.
fn row(sheet: &mut Sheet, panel: &Panel, middle: f64, format: Format, seconds: &[f64]) -> Option<String> {
    const HALF: f64 = 6.0;
    let [lower, median, upper] = quartiles(seconds)?;
    let name = format.name();
    if seconds.len() > 1 {
        sheet.rectangle(
            &format!("quartiles {name}"),
            [panel.x(lower), middle - HALF, panel.x(upper), middle + HALF],
        );
    }
    // Dots that fall on one another are drawn once.
    let places: BTreeSet<i64> = seconds
        .iter()
        .map(|value| (panel.x(*value) * 2.0).round() as i64)
        .collect();
    for place in places {
        sheet.dot(format, place as f64 / 2.0, middle);
    }
    sheet.mark(format, panel.x(median), middle);
    let words = shown(Unit::Seconds, median);
    sheet.text("", WIDTH - MARGIN, middle + 4.0, Anchor::End, &words);
    Some(words)
}

fn axis(seconds: &[f64]) -> Axis {
    let smallest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = seconds.iter().copied().fold(0.0, f64::max);
    let is_wide = smallest > 0.0 && largest > FAR_APART * smallest;
    let logarithmic = Axis::logarithmic(seconds).filter(|_| is_wide);
    logarithmic.unwrap_or_else(|| Axis::linear(&[&[0.0], seconds].concat()))
}

fn groups(record: &Record, pair: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for scenario in scenarios(record) {
        let mut names: Vec<&str> = Vec::new();
        let of_scenario = |format| tests(record, pair, format).filter(move |test| test.key.scenario == scenario);
        for request in Format::ALL.into_iter().flat_map(of_scenario).flat_map(answered) {
            if !names.contains(&request.group.as_str()) {
                names.push(&request.group);
            }
        }
        for name in &names {
            let seconds = Format::ALL.map(|format| {
                let requests = of_scenario(format).flat_map(answered);
                let of_group = requests.filter(|request| request.group == *name);
                of_group.filter_map(time_to_first_token).collect::<Vec<f64>>()
            });
            if seconds.iter().any(|seconds| !seconds.is_empty()) {
                let name = match names.as_slice() {
                    [_] => scenario.to_owned(),
                    _ if name.starts_with(scenario) => (*name).to_owned(),
                    _ => match group_name(&record.plan, scenario, name) {
                        length if length.starts_with(CONTEXT) => group_title(&length),
                        _ => format!("{scenario}: {}", group_title(name)),
                    },
                };
                groups.push(Group { name, seconds });
            }
        }
    }
    groups
}

fn legend() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Format::ALL
        .into_iter()
        .map(|format| Entry {
            sample: format!(
                "<rect class=\"quartiles {}\" x=\"0\" y=\"0\" width=\"24\" height=\"12\"/>{}",
                format.name(),
                mark(format, 12.0, 6.0)
            ),
            words: format!("{}: median and quartiles", format.title()),
        })
        .collect();
    let dots = Format::ALL.map(Format::name);
    entries.push(Entry {
        sample: format!(
            "<circle class=\"dot {}\" cx=\"8\" cy=\"6\" r=\"2\"/><circle class=\"dot {}\" cx=\"16\" cy=\"6\" r=\"2\"/>",
            dots[0], dots[1]
        ),
        words: "one answer".to_owned(),
    });
    entries
}
