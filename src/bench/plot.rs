//! A benchmark as a picture.

use std::fmt::Write as _;

use super::shown::{model, shown, system};
use super::{BenchResults, Measurement, Unit};
use crate::report::Axis;

const WIDTH: usize = 900;
const MARGIN: usize = 16;
/// Room for the names of the figures.
const LEFT: usize = 330;
/// Room for the medians in words.
const RIGHT: usize = 120;
const ROW: usize = 20;
const BAR: usize = 10;
const HEAD: usize = 64;
/// Room for a panel's title, and for its axis below.
const TITLE: usize = 34;
const FOOT: usize = 30;
/// Letters of the lines above the panels that fit.
const LINE: usize = 125;

/// Every panel: the unit, what stands above it, and whether powers of ten have equal distances.
const PANELS: [(Unit, &str, bool); 8] = [
    (Unit::TokensPerSecond, "Tokens in a second: more is better", false),
    (Unit::Seconds, "Seconds, on a logarithmic axis: less is better", true),
    (
        Unit::GigaflopsPerSecond,
        "1e9 operations in a second: more is better",
        false,
    ),
    (Unit::GigabytesPerSecond, "1e9 bytes in a second: more is better", false),
    (Unit::Share, "Shares", false),
    (Unit::Bytes, "Bytes: less is better", false),
    (Unit::Joules, "Joules: less is better", false),
    (Unit::TokensPerJoule, "Tokens for a joule: more is better", false),
];

/// Colours for a light page and for a dark one, which the reader's system chooses.
const STYLE: &str = "svg{color-scheme:light dark}.page{fill:#fff}.ink{fill:#1c1c1c}.soft{fill:#5c5c5c}.grid{stroke:#dcdcdc}\
    .bar{fill:#5b8fd0}.spread{stroke:#12335f}.value{fill:#12335f;fill-opacity:.45}\
    @media(prefers-color-scheme:dark){.page{fill:#16181c}.ink{fill:#ececec}.soft{fill:#a8a8a8}.grid{stroke:#3a3d44}\
    .bar{fill:#3f6fae}.spread{stroke:#cfe2ff}.value{fill:#cfe2ff;fill-opacity:.55}}";

/// The figures as bars up to their medians, or as points where the axis has powers of ten; a line from quartile to quartile
/// and a dot for each value.
pub fn to_svg(results: &BenchResults) -> String {
    let panels: Vec<_> = PANELS
        .iter()
        .map(|panel| {
            let of_unit = results.figures().filter(|(_, figure)| figure.unit == panel.0);
            (panel, of_unit.collect::<Vec<_>>())
        })
        .filter(|(_, figures)| !figures.is_empty())
        .collect();
    let heights = panels.iter().map(|(_, figures)| TITLE + figures.len() * ROW + FOOT);
    let height = HEAD + heights.sum::<usize>() + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let _ = writeln!(
        svg,
        "<text class=\"ink\" x=\"{MARGIN}\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{}</text>\n\
         <text class=\"soft\" x=\"{MARGIN}\" y=\"46\" font-size=\"11\">{}</text>",
        escaped(&cut(&model(results), LINE * 3 / 4)),
        escaped(&cut(&system(&results.system), LINE))
    );
    let mut top = HEAD;
    for ((unit, title, is_logarithmic), figures) in panels {
        panel(&mut svg, top, (*unit, title, *is_logarithmic), &figures);
        top += TITLE + figures.len() * ROW + FOOT;
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(
    svg: &mut String,
    top: usize,
    (unit, title, is_logarithmic): (Unit, &str, bool),
    figures: &[(&str, &Measurement)],
) {
    let rows = top + TITLE;
    let bottom = rows + figures.len() * ROW;
    let values: Vec<f64> = figures
        .iter()
        .flat_map(|(_, figure)| figure.samples.values().iter().copied())
        .collect();
    let axis = match Axis::logarithmic(&values).filter(|_| is_logarithmic) {
        Some(axis) => axis,
        // Bars begin at zero.
        None => Axis::linear(&[&[0.0], values.as_slice()].concat()),
    };
    let x = |value: f64| LEFT as f64 + axis.place(value) * (WIDTH - LEFT - RIGHT) as f64;
    let _ = writeln!(
        svg,
        "<text class=\"ink\" x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        top + 22
    );
    for (value, _) in axis.labels() {
        let place = x(value);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{place:.1}\" y1=\"{rows}\" x2=\"{place:.1}\" y2=\"{bottom}\"/>\
             <text class=\"soft\" x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
            bottom + 15,
            label(unit, value)
        );
    }
    for (index, (subject, figure)) in figures.iter().enumerate() {
        let middle = rows + index * ROW + ROW / 2;
        let _ = writeln!(
            svg,
            "<text class=\"ink\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            middle + 4,
            escaped(&format!("{subject}: {}", figure.name))
        );
        row(svg, middle, figure, &x, axis.is_logarithmic());
        let _ = writeln!(
            svg,
            "<text class=\"ink\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            WIDTH - MARGIN,
            middle + 4,
            shown(unit, figure.median)
        );
    }
}

fn row(svg: &mut String, middle: usize, figure: &Measurement, x: &impl Fn(f64) -> f64, is_logarithmic: bool) {
    let median = x(figure.median);
    if is_logarithmic {
        let _ = writeln!(
            svg,
            "<circle class=\"bar\" cx=\"{median:.1}\" cy=\"{middle}\" r=\"5\"/>"
        );
    } else {
        let _ = writeln!(
            svg,
            "<rect class=\"bar\" x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{BAR}\"/>",
            middle - BAR / 2,
            (median - LEFT as f64).max(0.0)
        );
    }
    for &value in figure.samples.values() {
        let _ = writeln!(
            svg,
            "<circle class=\"value\" cx=\"{:.1}\" cy=\"{middle}\" r=\"1.8\"/>",
            x(value)
        );
    }
    let _ = writeln!(
        svg,
        "<line class=\"spread\" x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke-width=\"1.5\"/>",
        x(figure.low),
        x(figure.high)
    );
}

/// A number beside an axis.
fn label(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds | Unit::Bytes | Unit::Share => shown(unit, value).replace(".00", "").replace(".0", ""),
        _ => format!("{value}"),
    }
}

fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let start: String = text.chars().take(letters - 3).collect();
    format!("{start}...")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
