//! Memory by request: how much more there is after each than after the first one, with the slope and its interval.

use super::lettering::fitted;
use super::panel::{Across, Panel};
use super::requests::quartiles;
use super::sheet::{Anchor, BOLD, Drawn, Entry, ORDINARY, SMALL, Sheet};
use super::thresholds::SMALLEST_SPAN;
use crate::compare::analysis::{Interval, LeakAnalysis, PairAnalysis};
use crate::compare::report::quantity::{Scale, interval, shown};
use crate::compare::report::wording::{caches, leak_verdict};
use crate::compare::{Format, Unit};
use crate::report::Axis;

const HEIGHT: f64 = 170.0;
/// Height of the lines above a panel.
const CAPTIONS: f64 = 52.0;

/// Growth since the first request.
struct Growth<'analysis> {
    analysis: &'analysis LeakAnalysis,
    /// Number of the request, and bytes since the first one.
    points: Vec<(f64, f64)>,
    first: f64,
}

pub(super) fn plot(pair: &PairAnalysis, file: String) -> Drawn {
    let growths: Vec<Growth> = pair.leaks.iter().filter_map(growth).collect();
    if growths.is_empty() {
        return Err("Memory by request is not drawn: no leak test measured it.".to_owned());
    }
    let last = growths
        .iter()
        .flat_map(|growth| &growth.points)
        .map(|point| point.0)
        .fold(0.0, f64::max);
    let mut heights = vec![0.0, SMALLEST_SPAN];
    heights.extend(growths.iter().flat_map(Growth::heights));
    let largest = heights.iter().copied().map(f64::abs).fold(0.0, f64::max);
    let scale = Scale::of(Unit::Bytes, largest);
    let scaled: Vec<f64> = heights.iter().map(|&height| scale.apply(height)).collect();
    let (across, up) = (Axis::linear(&[0.0, last]), Axis::linear(&scaled));
    let mut sheet = Sheet::new("Memory by request, since the first one that counts", &pair.pair);
    sheet.legend(&legend(&growths));
    // A format's states of the caches stand beside each other.
    let of_formats = growths.chunk_by(|one, next| one.analysis.format == next.analysis.format);
    for row in of_formats.flat_map(|growths| growths.chunks(2)) {
        let top = sheet.bottom;
        for (index, growth) in row.iter().enumerate() {
            let (begin, room) = Panel::half(index);
            captions(&mut sheet, growth, begin, top, room - 16.0);
            let panel = Panel::beside(index, top + CAPTIONS, HEIGHT, Across::Numbers(across), up);
            panel.frame(&mut sheet, "request", &format!("{} more", scale.name));
            growth.draw(&mut sheet, &panel, scale);
        }
        sheet.bottom = top + CAPTIONS + Panel::UPPER_TITLE + HEIGHT + Panel::LOWER_LABELS + 8.0;
    }
    let described: Vec<&str> = growths.iter().map(|growth| growth.analysis.headline.as_str()).collect();
    Ok(sheet.finish(file, described.join("; ")))
}

fn growth(analysis: &LeakAnalysis) -> Option<Growth<'_>> {
    let known = || analysis.values.iter().filter(|(_, bytes)| bytes.is_finite());
    let first = known().next()?.1;
    Some(Growth {
        analysis,
        points: known()
            .map(|&(request, bytes)| (request as f64, bytes - first))
            .collect(),
        first,
    })
}

impl Growth<'_> {
    /// The first and the last request.
    fn ends(&self) -> [f64; 2] {
        let numbers = || self.points.iter().map(|point| point.0);
        [numbers().fold(f64::INFINITY, f64::min), numbers().fold(0.0, f64::max)]
    }

    /// Bytes at a request on the line of this slope through the middle of the Theil-Sen line: its intercept is the median of
    /// what the slope leaves over (Conover 1980, Practical Nonparametric Statistics, section 5.5).
    fn on_line(&self, slope: f64, request: f64) -> Option<f64> {
        let estimate = self.slope()?.estimate;
        let left_over: Vec<f64> = self
            .points
            .iter()
            .map(|(number, bytes)| bytes - estimate * number)
            .collect();
        let numbers: Vec<f64> = self.points.iter().map(|point| point.0).collect();
        let (middle, intercept) = (quartiles(&numbers)?[1], quartiles(&left_over)?[1]);
        Some(intercept + estimate * middle + slope * (request - middle))
    }

    fn slope(&self) -> Option<Interval> {
        let is_finite = |slope: &Interval| {
            [slope.estimate, slope.low, slope.high]
                .iter()
                .all(|value| value.is_finite())
        };
        self.analysis.slope.filter(is_finite)
    }

    /// Everything that is drawn, for the axis.
    fn heights(&self) -> Vec<f64> {
        let mut heights: Vec<f64> = self.points.iter().map(|point| point.1).collect();
        if let Some(slope) = self.slope() {
            let lines = [slope.estimate, slope.low, slope.high];
            heights.extend(
                lines
                    .iter()
                    .flat_map(|&slope| self.ends().map(|end| self.on_line(slope, end)))
                    .flatten(),
            );
        }
        heights
    }

    fn draw(&self, sheet: &mut Sheet, panel: &Panel, scale: Scale) {
        let format = self.analysis.format;
        let name = format.name();
        let place = |slope: f64, request: f64| {
            let bytes = self.on_line(slope, request)?;
            Some(format!("{:.1} {:.1}", panel.x(request), panel.y(scale.apply(bytes))))
        };
        let [first, last] = self.ends();
        if let Some(slope) = self.slope() {
            let corners = [
                (slope.low, first),
                (slope.low, last),
                (slope.high, last),
                (slope.high, first),
            ];
            let corners: Option<Vec<String>> = corners.iter().map(|&(slope, end)| place(slope, end)).collect();
            if let Some(corners) = corners {
                sheet.path(&format!("interval {name}"), &format!("M{}Z", corners.join("L")));
            }
            if let (Some(begin), Some(end)) = (place(slope.estimate, first), place(slope.estimate, last)) {
                sheet.path(&format!("line {name}"), &format!("M{begin}L{end}"));
            }
        }
        let mut places: Vec<(i64, i64)> = self
            .points
            .iter()
            .map(|(request, bytes)| {
                let (x, y) = (panel.x(*request), panel.y(scale.apply(*bytes)));
                ((x * 2.0).round() as i64, (y * 2.0).round() as i64)
            })
            .collect();
        // Dots that fall on one another are drawn once.
        places.dedup();
        for (x, y) in places {
            sheet.dot(format, x as f64 / 2.0, y as f64 / 2.0);
        }
    }
}

/// The verdict and the slope above a panel.
fn captions(sheet: &mut Sheet, growth: &Growth, begin: f64, top: f64, room: f64) {
    let analysis = growth.analysis;
    let title = format!(
        "{}, {}: {}",
        analysis.format.title(),
        caches(analysis.prompt_cache),
        leak_verdict(analysis.verdict)
    );
    sheet.text(
        "strong",
        begin,
        top + 12.0,
        Anchor::Start,
        &fitted(&title, ORDINARY * BOLD, room),
    );
    let slope = growth.slope().map_or_else(
        || "no slope".to_owned(),
        |slope| interval(Unit::BytesPerRequest, &slope),
    );
    let first = format!("{} after the first one", shown(Unit::Bytes, growth.first));
    for (line, words) in [slope, first].iter().enumerate() {
        let y = top + 29.0 + 15.0 * line as f64;
        sheet.text("small", begin, y, Anchor::Start, &fitted(words, SMALL, room));
    }
}

fn legend(growths: &[Growth]) -> Vec<Entry> {
    let is_drawn = |format: &Format| growths.iter().any(|growth| growth.analysis.format == *format);
    let entry = |format: Format| {
        let name = format.name();
        Entry {
            sample: format!(
                "<path class=\"interval {name}\" d=\"M0 1H24V11H0Z\"/><path class=\"line {name}\" d=\"M0 6H24\"/><circle \
                 class=\"dot {name}\" cx=\"12\" cy=\"3\" r=\"2\"/>"
            ),
            words: format!("{}: values, slope and its 95% interval", format.title()),
        }
    };
    Format::ALL.into_iter().filter(is_drawn).map(entry).collect()
}
