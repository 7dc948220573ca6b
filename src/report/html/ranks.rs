//! The processes of a training side by side: where their time goes, and what each computed.

use std::fmt::Write as _;

use super::markup::{escaped, table};
use crate::report::{RankRow, RankTable};
use crate::rules::wording::counted;

/// Width of the picture in its own units.
const WIDTH: f64 = 560.0;
/// Room for the name of a rank, and for the seconds behind a bar.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 64.0;
/// Distance from bar to bar, and the height of one.
const PITCH: f64 = 20.0;
const BAR: f64 = 13.0;
/// Ranks that are drawn; the table has all of them.
const DRAWN: usize = 64;

/// The picture and the table.
pub(super) fn ranks(ranks: &RankTable) -> String {
    let mut text = format!("<p>{}.</p>\n", summary(ranks));
    text.push_str(&times(&ranks.ranks));
    let rows: Vec<Vec<String>> = ranks
        .cells()
        .iter()
        .map(|line| line.iter().map(|cell| escaped(cell)).collect())
        .collect();
    text.push_str(&table("Ranks", &RankTable::TITLES, &rows, &[0, 1, 2, 3, 4, 5, 6, 7]));
    text
}

fn summary(ranks: &RankTable) -> String {
    let apart = ranks.ranks.iter().filter(|rank| rank.apart_since.is_some()).count();
    let values = match (ranks.updates, apart) {
        (0, _) => "no update of all of them was recorded".to_owned(),
        (_, 0) => "the trained values were the same bits on all of them after each".to_owned(),
        (_, apart) => format!("{} had other values than rank 0", counted(apart, "rank")),
    };
    let lost = ranks.lost.as_ref().map_or_else(String::new, |lost| {
        format!("; rank {} was lost: {}", lost.rank, escaped(&lost.how))
    });
    format!(
        "{} in {} that {} recorded; {values}{lost}",
        counted(ranks.ranks.len(), "rank"),
        counted(ranks.updates, "update"),
        if ranks.updates == 1 { "was" } else { "were" }
    )
}

/// A bar for each rank: what it computed by itself, and what it waited or exchanged gradients for; empty where it was not timed.
fn times(rows: &[RankRow]) -> String {
    let timed: Vec<(&RankRow, f64, f64)> = rows
        .iter()
        .take(DRAWN)
        .filter_map(|row| {
            let (own, waiting) = (row.own_seconds?, row.waiting?.clamp(0.0, 1.0));
            // The part that is not waiting is the own time.
            let update = if waiting < 1.0 { own / (1.0 - waiting) } else { own };
            (own.is_finite() && update.is_finite() && update > 0.0).then_some((row, own, update))
        })
        .collect();
    let longest = timed.iter().map(|(_, _, update)| *update).fold(0.0, f64::max);
    if timed.is_empty() {
        return String::new();
    }
    let room = WIDTH - LEFT - RIGHT;
    let height = PITCH * timed.len() as f64;
    let mut body = String::new();
    for (index, (row, own, update)) in timed.iter().enumerate() {
        let y = PITCH * index as f64 + (PITCH - BAR) / 2.0;
        let (computed, whole) = (room * own / longest, room * update / longest);
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">rank {}</text><rect class=\"u4\" x=\"{LEFT}\" y=\"{y:.1}\" \
             width=\"{computed:.1}\" height=\"{BAR}\"><title>rank {}: {own:.3} s of its own</title></rect><rect class=\"hollow\" \
             x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\"><title>rank {}: {:.3} s waiting and exchanging</title></rect><text \
             class=\"unit\" x=\"{:.1}\" y=\"{:.1}\">{update:.3} s</text>",
            LEFT - 6.0,
            y + BAR - 3.0,
            row.rank,
            row.rank,
            LEFT + computed,
            (whole - computed).max(0.0),
            row.rank,
            update - own,
            LEFT + whole + 6.0,
            y + BAR - 3.0,
        );
    }
    format!(
        "<figure><figcaption>Where the time of an update goes</figcaption>\n<div class=\"panels\"><svg class=\"plot\" role=\"img\" \
         aria-label=\"Seconds of an update by rank, of its own and waiting\" width=\"{WIDTH}\" viewBox=\"0 0 {WIDTH} {height}\">\n{body}</svg></div>\n\
         <ul class=\"legend\"><li><svg class=\"sample\" width=\"18\" height=\"12\" aria-hidden=\"true\"><rect class=\"u4\" y=\"1\" \
         width=\"18\" height=\"10\"/></svg> computing its rows, the median</li><li><svg class=\"sample\" width=\"18\" height=\"12\" \
         aria-hidden=\"true\"><rect class=\"hollow\" x=\"0.5\" y=\"1.5\" width=\"17\" height=\"9\"/></svg> waiting for others, exchanging \
         gradients, and the update itself</li></ul></figure>\n"
    )
}
