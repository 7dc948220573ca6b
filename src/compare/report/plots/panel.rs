//! The part of a picture between two axes.

use std::fmt::Write as _;

use super::lettering::width;
use super::sheet::{Anchor, MARGIN, SMALL, Sheet, WIDTH};
use crate::report::Axis;

/// What stands along the lower edge.
pub(super) enum Across {
    /// Numbers.
    Numbers(Axis),
    /// A few numbers at equal distances, in order.
    Levels(Vec<usize>),
}

/// A rectangle with an axis below and one at its left.
pub(super) struct Panel {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
    pub(super) across: Across,
    pub(super) up: Axis,
}

/// A place in the units of a picture.
pub(super) type Place = (f64, f64);

impl Panel {
    /// Room that the labels of the axis at the left need.
    pub(super) const LEFT_LABELS: f64 = 52.0;
    /// Room that the labels and the title of the lower axis need.
    pub(super) const LOWER_LABELS: f64 = 38.0;
    /// Room that the title of the axis at the left needs above it.
    pub(super) const UPPER_TITLE: f64 = 18.0;

    /// One of two panels beside each other, the left one being 0, under what stands above the axes from `top` on.
    pub(super) fn beside(index: usize, top: f64, height: f64, across: Across, up: Axis) -> Self {
        const GAP: f64 = 18.0;
        let (begin, room) = Self::half(index);
        let top = top + Self::UPPER_TITLE;
        Self {
            left: begin + Self::LEFT_LABELS,
            right: begin + room - GAP,
            top,
            bottom: top + height,
            across,
            up,
        }
    }

    /// Where one of two halves of a picture begins, and how wide it is.
    pub(super) fn half(index: usize) -> (f64, f64) {
        let room = (WIDTH - 2.0 * MARGIN) / 2.0;
        (MARGIN + index as f64 * room, room)
    }

    pub(super) fn x(&self, value: f64) -> f64 {
        let share = match &self.across {
            Across::Numbers(axis) => axis.place(value),
            Across::Levels(levels) => {
                let index = levels.iter().position(|level| *level as f64 == value);
                (index.unwrap_or(0) as f64 + 0.5) / levels.len().max(1) as f64
            }
        };
        self.left + share * (self.right - self.left)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.bottom - self.up.place(value) * (self.bottom - self.top)
    }

    /// Both axes with their labels and units; what is drawn later lies over them.
    pub(super) fn frame(&self, sheet: &mut Sheet, across: &str, up: &str) {
        for (value, label) in self.up.labels() {
            let y = self.y(value);
            sheet.path("grid", &format!("M{:.1} {y:.1}H{:.1}", self.left, self.right));
            sheet.text("small", self.left - 6.0, y + 4.0, Anchor::End, &label);
        }
        sheet.text(
            "small",
            self.left - Self::LEFT_LABELS + 6.0,
            self.top - 10.0,
            Anchor::Start,
            up,
        );
        self.lower_axis(sheet, across, false);
    }

    /// The lower axis with lines up from its labels, for rows of their own height.
    pub(super) fn frame_below(&self, sheet: &mut Sheet, across: &str) {
        self.lower_axis(sheet, across, true);
    }

    fn lower_axis(&self, sheet: &mut Sheet, title: &str, has_lines: bool) {
        let labels: Vec<(f64, String)> = match &self.across {
            Across::Numbers(axis) => axis.labels(),
            Across::Levels(levels) => levels.iter().map(|level| (*level as f64, level.to_string())).collect(),
        };
        let mut free = f64::NEG_INFINITY;
        for (value, label) in labels {
            let x = self.x(value);
            if has_lines {
                sheet.path("grid", &format!("M{x:.1} {:.1}V{:.1}", self.top, self.bottom));
            }
            sheet.path("axis", &format!("M{x:.1} {:.1}v4", self.bottom));
            let half = width(&label, SMALL) / 2.0;
            if x - half > free {
                sheet.text("small", x, self.bottom + 16.0, Anchor::Middle, &label);
                free = x + half + 4.0;
            }
        }
        sheet.path(
            "axis",
            &format!("M{:.1} {:.1}H{:.1}", self.left, self.bottom, self.right),
        );
        let middle = f64::midpoint(self.left, self.right);
        sheet.text("small", middle, self.bottom + 31.0, Anchor::Middle, title);
    }

    /// Commands of a line through values by number, with gaps where there is none; at most four values for each unit of
    /// width are kept, the lowest and the highest among them.
    pub(super) fn line(&self, values: &[(f64, Option<f64>)]) -> String {
        let mut commands = String::new();
        for run in self.runs(values) {
            for (index, (x, y)) in run.iter().enumerate() {
                let _ = write!(commands, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
            }
            if let [(x, _)] = run.as_slice() {
                // A value without a neighbour would not be seen.
                let _ = write!(commands, "H{:.1}", (x + 2.0).min(self.right));
            }
        }
        commands
    }

    /// Commands of the area between zero, or the lower edge, and the values.
    pub(super) fn area(&self, values: &[(f64, Option<f64>)]) -> String {
        let floor = self.y(0.0);
        let mut commands = String::new();
        for run in self.runs(values) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else {
                continue;
            };
            let _ = write!(commands, "M{first:.1} {floor:.1}");
            for (x, y) in &run {
                let _ = write!(commands, "L{x:.1} {y:.1}");
            }
            let _ = write!(commands, "L{last:.1} {floor:.1}Z");
        }
        commands
    }

    /// Places of the values, as runs without gaps, thinned.
    fn runs(&self, values: &[(f64, Option<f64>)]) -> Vec<Vec<Place>> {
        values
            .split(|(_, value)| value.is_none())
            .map(|run| {
                let known = run.iter().filter_map(|(at, value)| value.map(|value| (*at, value)));
                let places: Vec<Place> = known.map(|(at, value)| (self.x(at), self.y(value))).collect();
                thinned(&places)
            })
            .filter(|run| !run.is_empty())
            .collect()
    }
}

/// Of all places in one column of a unit's width, the first, the highest, the lowest and the last, in their order.
fn thinned(places: &[Place]) -> Vec<Place> {
    let columns = places.chunk_by(|one, next| one.0.floor() == next.0.floor());
    let mut kept = Vec::new();
    for column in columns {
        let last = column.len() - 1;
        let by_height = |one: &(usize, &Place), other: &(usize, &Place)| one.1.1.total_cmp(&other.1.1);
        let lowest = column.iter().enumerate().min_by(by_height);
        let highest = column.iter().enumerate().max_by(by_height);
        let mut indices: Vec<usize> = [0, last]
            .into_iter()
            .chain(lowest.map(|(index, _)| index))
            .chain(highest.map(|(index, _)| index))
            .collect();
        indices.sort_unstable();
        indices.dedup();
        kept.extend(indices.iter().filter_map(|&index| column.get(index)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::thinned;

    #[test]
    fn a_column_of_many_places_keeps_its_ends_and_its_extremes() {
        let many: Vec<(f64, f64)> = (0..1000)
            .map(|index| (5.0 + f64::from(index) / 2000.0, f64::from((index * 7 + 3) % 1000)))
            .collect();
        let kept = thinned(&many);
        assert_eq!(kept.len(), 4);
        assert_eq!((kept.first(), kept.last()), (many.first(), many.last()));
        assert!(kept.iter().any(|place| place.1 == 0.0) && kept.iter().any(|place| place.1 == 999.0));
        assert!(kept.is_sorted_by(|one, next| one.0 <= next.0));
    }

    #[test]
    fn places_in_columns_of_their_own_all_stay() {
        let few: Vec<(f64, f64)> = (0..50).map(|index| (f64::from(index), f64::from(index % 3))).collect();
        assert_eq!(thinned(&few), few);
    }
}
