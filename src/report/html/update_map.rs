//! How much every weight changed, as a picture with a row for each layer and a column for each projection.

use std::fmt::Write as _;

use super::axis::power_of_ten;
use super::markup::{escaped, folded, table};
use crate::quantile::upper_median;
use crate::report::{UpdateKind, UpdateMap, UpdateSize};
use crate::rules::wording::counted;

/// Shades of the scale, from the smallest to the largest.
const SHADES: usize = 8;
/// Powers of ten that the scale spans at most; what is smaller has the first shade.
const MOST_DECADES: i32 = 4;
/// Up to this number of layers every cell has room for its number; more are drawn side by side in narrow panels.
const SPACIOUS_LAYERS: usize = 48;
/// Layers of a narrow panel at most.
const PANEL_LAYERS: usize = 50;
/// Room for the number of the layer.
const LEFT: usize = 30;
/// Weights outside of the blocks that are listed.
const LISTED: usize = 50;

/// The picture, its legend, and what is outside of the blocks.
pub(super) fn update_map(map: &UpdateMap) -> String {
    let scale = Scale::of(map);
    let mut text = format!("<p>{}</p>\n", summary(map));
    if !map.rows.is_empty() {
        text.push_str("<figure>\n");
        text.push_str(&legend(map, &scale));
        let layout = Layout::of(map);
        let _ = writeln!(
            text,
            "<div class=\"panels\" tabindex=\"0\" role=\"group\" aria-label=\"Map of the updates\">"
        );
        for (index, rows) in map.rows.chunks(layout.rows).enumerate() {
            text.push_str(&layout.panel(map, &scale, index * layout.rows, rows));
        }
        text.push_str("</div>\n</figure>\n");
    }
    if !map.elsewhere.is_empty() {
        text.push_str(&elsewhere(map));
    }
    text
}

fn summary(map: &UpdateMap) -> String {
    let what = match map.kind {
        UpdateKind::Adapters => "What the adapters add to each weight",
        UpdateKind::Weights => "What training changed in each weight",
    };
    let ratios = || map.ratios();
    let (Some(smallest), Some(median), Some(largest)) = (
        ratios().min_by(f64::total_cmp),
        upper_median(ratios()),
        ratios().max_by(f64::total_cmp),
    ) else {
        return format!("{what}: no ratio could be measured.");
    };
    let cells = map.rows.iter().flatten().flatten().count();
    format!(
        "{what}, as the ratio of the norms ‖ΔW‖ / ‖W‖: {} in {}, smallest {}, median {}, largest {}.",
        counted(cells + map.elsewhere.len(), "weight"),
        counted(map.rows.len(), "layer"),
        number(smallest),
        number(median),
        number(largest)
    )
}

/// Which shade a ratio has.
struct Scale {
    /// Exponents of ten at both ends.
    low: i32,
    high: i32,
    /// Whether ratios below the lower end exist.
    is_cut: bool,
}

impl Scale {
    fn of(map: &UpdateMap) -> Self {
        let exponents: Vec<f64> = map.ratios().filter(|ratio| *ratio > 0.0).map(f64::log10).collect();
        let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = exponents.iter().copied().fold(f64::INFINITY, f64::min);
        if exponents.is_empty() {
            return Self {
                low: -4,
                high: 0,
                is_cut: false,
            };
        }
        let high = largest.ceil() as i32;
        let lowest = (smallest.floor() as i32).min(high - 1);
        let low = lowest.max(high - MOST_DECADES);
        Self {
            low,
            high,
            is_cut: lowest < low,
        }
    }

    fn shade(&self, ratio: f64) -> usize {
        let share = (ratio.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        ((share * SHADES as f64).max(0.0) as usize).min(SHADES - 1)
    }
}

/// The scale and the marks of cells without a shade.
fn legend(map: &UpdateMap, scale: &Scale) -> String {
    const STEP: usize = 26;
    const HEIGHT: usize = 30;
    let width = SHADES * STEP;
    let mut text = format!(
        "<div class=\"legend\"><svg class=\"map\" width=\"{}\" height=\"{HEIGHT}\" viewBox=\"-16 0 {} {HEIGHT}\" role=\"img\" \
         aria-label=\"Scale of the shades, logarithmic from {} to {}\">\n",
        width + 32,
        width + 32,
        power_of_ten(f64::from(scale.low)),
        power_of_ten(f64::from(scale.high))
    );
    for shade in 0..SHADES {
        let _ = write!(
            text,
            "<rect class=\"u{shade}\" x=\"{}\" width=\"{STEP}\" height=\"12\"/>",
            shade * STEP
        );
    }
    let decades = (scale.high - scale.low).max(1);
    for exponent in scale.low..=scale.high {
        let x = (exponent - scale.low) * width as i32 / decades;
        let sign = if exponent == scale.low && scale.is_cut {
            "≤ "
        } else {
            ""
        };
        let _ = write!(
            text,
            "<path class=\"tick\" d=\"M{x} 12v4\"/><text x=\"{x}\" y=\"27\" text-anchor=\"middle\">{sign}{}</text>",
            power_of_ten(f64::from(exponent))
        );
    }
    text.push_str("</svg>\n");
    text.push_str(&signs(map, scale));
    text.push_str("</div>\n");
    text
}

/// What the cells without a shade mean; empty without such a cell.
fn signs(map: &UpdateMap, scale: &Scale) -> String {
    let mut entries = String::new();
    let cells = || map.rows.iter().flatten();
    let kinds = [
        (cells().any(Option::is_none), None, "not trained"),
        (
            cells().any(|cell| *cell == Some(UpdateSize::Relative(0.0))),
            Some(UpdateSize::Relative(0.0)),
            "exactly zero",
        ),
        (
            cells().any(|cell| *cell == Some(UpdateSize::NoRatio)),
            Some(UpdateSize::NoRatio),
            "no ratio: not finite, or a weight of zeros",
        ),
    ];
    for (_, cell, words) in kinds.into_iter().filter(|(is_there, ..)| *is_there) {
        let place = Place {
            x: 0,
            y: 0,
            width: 22,
            height: 12,
        };
        let sample = mark(cell, place, false, scale);
        let _ = write!(
            entries,
            "<li><svg class=\"map sample\" width=\"22\" height=\"12\" viewBox=\"0 0 22 12\" aria-hidden=\"true\">{sample}</svg> \
             {words}</li>"
        );
    }
    if entries.is_empty() {
        return entries;
    }
    format!("<ul class=\"legend\">{entries}</ul>")
}

/// How large the cells are and how many layers a panel holds.
struct Layout {
    /// Where each column begins, and after the last one where it ends.
    edges: Vec<usize>,
    row: usize,
    rows: usize,
    top: usize,
    is_spacious: bool,
}

impl Layout {
    fn of(map: &UpdateMap) -> Self {
        /// Width of one letter at most.
        const CHARACTER: usize = 6;
        /// Width of two letters on average.
        const TWO_LETTERS: usize = 11;
        const NARROW: usize = 26;
        const LONGEST_LABEL: usize = 30;
        let is_spacious = map.rows.len() <= SPACIOUS_LAYERS;
        let mut edges = vec![LEFT];
        let mut right = LEFT;
        for column in &map.columns {
            let (parent, name) = path(column);
            let longest = parent.chars().count().max(name.chars().count());
            right += if is_spacious {
                ((longest * TWO_LETTERS).div_ceil(2) + 4).clamp(44, 160)
            } else {
                NARROW
            };
            edges.push(right);
        }
        if is_spacious {
            return Self {
                edges,
                row: 18,
                rows: SPACIOUS_LAYERS,
                top: 32,
                is_spacious,
            };
        }
        let lengths = map.columns.iter().map(|column| column.chars().count());
        let panels = map.rows.len().div_ceil(PANEL_LAYERS);
        Self {
            edges,
            row: 12,
            rows: map.rows.len().div_ceil(panels).next_multiple_of(10),
            top: lengths.max().unwrap_or(0).min(LONGEST_LABEL) * CHARACTER + 8,
            is_spacious,
        }
    }

    fn panel(&self, map: &UpdateMap, scale: &Scale, first: usize, rows: &[Vec<Option<UpdateSize>>]) -> String {
        let (width, height) = (
            self.edges.last().map_or(LEFT, |right| right + 2),
            self.top + rows.len() * self.row + 2,
        );
        let last = first + rows.len() - 1;
        // A little smaller is still legible on a phone; more than that scrolls.
        let narrowest = width * 4 / 5;
        let mut text = format!(
            "<svg class=\"map\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             style=\"min-width:{narrowest}px\" role=\"img\" aria-label=\"Updates of layers {first} to {last}\">\n"
        );
        for (column, edges) in map.columns.iter().zip(self.edges.windows(2)) {
            text.push_str(&self.column_label(column, usize::midpoint(edges[0], edges[1])));
        }
        for (index, row) in rows.iter().enumerate() {
            let (layer, y) = (first + index, self.top + index * self.row);
            if self.is_spacious || layer.is_multiple_of(10) {
                let _ = writeln!(
                    text,
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{layer}</text>",
                    LEFT - 6,
                    y + self.row / 2 + 4
                );
            }
            for ((size, column), edges) in row.iter().zip(&map.columns).zip(self.edges.windows(2)) {
                let place = Place {
                    x: edges[0],
                    y,
                    width: edges[1] - edges[0],
                    height: self.row,
                };
                let _ = writeln!(
                    text,
                    "<g>{}<title>layer {layer}, {}: {}</title></g>",
                    mark(*size, place, self.is_spacious, scale),
                    escaped(column),
                    in_words(*size)
                );
            }
        }
        text.push_str("</svg>\n");
        text
    }

    fn column_label(&self, column: &str, middle: usize) -> String {
        if !self.is_spacious {
            let (x, y) = (middle + 4, self.top - 5);
            return format!(
                "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-90 {x} {y})\">{}</text>\n",
                escaped(column)
            );
        }
        let (parent, name) = path(column);
        format!(
            "<text class=\"unit\" x=\"{middle}\" y=\"11\" text-anchor=\"middle\">{}</text><text x=\"{middle}\" y=\"25\" \
             text-anchor=\"middle\">{}</text>\n",
            escaped(parent),
            escaped(name)
        )
    }
}

/// A path within a block as its last part and what comes before.
fn path(column: &str) -> (&str, &str) {
    column.rsplit_once('.').unwrap_or(("", column))
}

/// Where a cell is.
#[derive(Clone, Copy)]
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// One cell: shaded, a dot, or framed with a sign, so that no kind is told by colour alone.
fn mark(cell: Option<UpdateSize>, place: Place, with_number: bool, scale: &Scale) -> String {
    let Place { x, y, width, height } = place;
    let (middle, centre) = (x + width / 2, y + height / 2);
    // Half a unit of the background all round tells neighbours of the same shade apart.
    let frame = |class: &str| {
        format!(
            "<rect class=\"{class}\" x=\"{x}.5\" y=\"{y}.5\" width=\"{}\" height=\"{}\"/>",
            width - 1,
            height - 1
        )
    };
    let written = |class: &str, text: &str| {
        format!(
            "<text class=\"{class}\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            centre + 4
        )
    };
    match cell {
        None => format!("<circle class=\"absent\" cx=\"{middle}\" cy=\"{centre}\" r=\"1.2\"/>"),
        Some(UpdateSize::Relative(0.0)) if with_number => frame("hollow") + &written("word", "0"),
        Some(UpdateSize::Relative(0.0)) => format!(
            "{}<path class=\"stroke\" d=\"M{} {centre}h8\"/>",
            frame("hollow"),
            middle - 4
        ),
        Some(UpdateSize::NoRatio) => format!(
            "{}<path class=\"broken\" d=\"M{} {}l6 6m0 -6l-6 6\"/>",
            frame("hollow"),
            middle - 3,
            centre - 3
        ),
        Some(UpdateSize::Relative(ratio)) => {
            let shade = scale.shade(ratio);
            let mut text = frame(&format!("u{shade}"));
            if with_number {
                text.push_str(&written(&format!("i{shade}"), &number(ratio)));
            }
            text
        }
    }
}

fn in_words(size: Option<UpdateSize>) -> String {
    match size {
        None => "not trained".to_owned(),
        Some(UpdateSize::NoRatio) => "no ratio".to_owned(),
        Some(UpdateSize::Relative(0.0)) => "0, exactly".to_owned(),
        Some(UpdateSize::Relative(ratio)) => number(ratio),
    }
}

/// A ratio in two digits.
fn number(ratio: f64) -> String {
    match ratio {
        0.0 => "0".to_owned(),
        ratio if ratio >= 99.5 => format!("{ratio:.1e}"),
        ratio if ratio >= 9.95 => format!("{ratio:.0}"),
        ratio if ratio >= 0.995 => format!("{ratio:.1}"),
        ratio if ratio >= 0.0995 => format!("{ratio:.2}"),
        ratio if ratio >= 0.00995 => format!("{ratio:.3}"),
        ratio => format!("{ratio:.1e}"),
    }
}

fn elsewhere(map: &UpdateMap) -> String {
    let rows: Vec<Vec<String>> = map
        .elsewhere
        .iter()
        .take(LISTED)
        .map(|(path, size)| vec![format!("<code>{}</code>", escaped(path)), in_words(Some(*size))])
        .collect();
    let mut content = table("Outside of the layers", &["weight", "‖ΔW‖ / ‖W‖"], &rows, &[1]);
    if map.elsewhere.len() > LISTED {
        let _ = writeln!(
            content,
            "<p class=\"aside\">and {} more in the evidence</p>",
            counted(map.elsewhere.len() - LISTED, "weight")
        );
    }
    folded(
        &format!("{} outside of the layers", counted(map.elsewhere.len(), "weight")),
        &content,
    )
}
