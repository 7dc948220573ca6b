//! Phases of a test above a panel: where their names stand.

use super::lettering::{fitted, width};
use super::panel::Panel;
use super::sheet::SMALL;
use super::thresholds::FLAG_LINES;
use crate::compare::Phase;

/// Every second one of the phases that lie in no other one, as seconds from and to.
pub(super) fn bands(phases: &[Phase]) -> Vec<[f64; 2]> {
    let mut until = f64::NEG_INFINITY;
    let mut outer = Vec::new();
    for phase in ordered(phases) {
        if phase.begin >= until {
            outer.push([phase.begin, phase.end]);
            until = phase.end;
        }
    }
    outer.into_iter().step_by(2).collect()
}

/// Phases by their beginning, outer ones before those within.
fn ordered(phases: &[Phase]) -> Vec<&Phase> {
    let has_ends = |phase: &&Phase| phase.begin.is_finite() && phase.end >= phase.begin;
    let mut ordered: Vec<&Phase> = phases.iter().filter(has_ends).collect();
    ordered.sort_by(|one, other| {
        let by_begin = one.begin.total_cmp(&other.begin);
        by_begin.then(other.end.total_cmp(&one.end))
    });
    ordered
}

/// A phase, or several of one name in a row, with the place of its name.
pub(super) struct Flag {
    pub(super) words: String,
    /// Where the phase begins, and where its name does.
    pub(super) begin: f64,
    pub(super) letters: f64,
    /// Of the lines above the panel, counted from 0.
    pub(super) line: usize,
}

/// Flags for the phases in the order of their beginnings, each in the first line that has room; and how many have none.
pub(super) fn flags(phases: &[Phase], panel: &Panel) -> (Vec<Flag>, usize) {
    const GAP: f64 = 8.0;
    const NAME: f64 = 160.0;
    let mut free = [f64::NEG_INFINITY; FLAG_LINES];
    let mut flags = Vec::new();
    let mut hidden = 0;
    for run in ordered(phases).chunk_by(|one, next| one.name == next.name) {
        let Some(first) = run.first() else { continue };
        let words = match run.len() {
            1 => first.name.clone(),
            count => format!("{} × {count}", first.name),
        };
        let begin = panel.x(first.begin);
        let words = fitted(&words, SMALL, NAME);
        let needed = width(&words, SMALL);
        let letters = (begin + 3.0).min(panel.right - needed);
        // A flag's line goes down through the lines below it, where no name may stand.
        let blocked = free.iter().rposition(|end| *end > letters.min(begin));
        let Some(line) = Some(blocked.map_or(0, |line| line + 1)).filter(|line| *line < FLAG_LINES) else {
            hidden += run.len();
            continue;
        };
        if let Some(end) = free.get_mut(line) {
            *end = letters + needed + GAP;
        }
        flags.push(Flag {
            words,
            begin,
            letters,
            line,
        });
    }
    (flags, hidden)
}

#[cfg(test)]
mod tests {
    use super::{bands, flags};
    use crate::compare::Phase;
    use crate::compare::report::plots::panel::{Across, Panel};
    use crate::report::Axis;

    fn phases(named: &[(&str, f64, f64)]) -> Vec<Phase> {
        let phase = |&(name, begin, end): &(&str, f64, f64)| Phase {
            name: name.to_owned(),
            begin,
            end,
        };
        named.iter().map(phase).collect()
    }

    /// A panel in which a second is 10 wide.
    fn panel() -> Panel {
        Panel {
            left: 0.0,
            right: 500.0,
            top: 0.0,
            bottom: 100.0,
            across: Across::Numbers(Axis::linear(&[0.0, 50.0])),
            up: Axis::linear(&[]),
        }
    }

    #[test]
    fn names_without_room_beside_each_other_stand_below_each_other() {
        let phases = phases(&[("load", 0.0, 2.0), ("warm-up", 2.0, 3.0), ("measure", 20.0, 40.0)]);
        let (flags, hidden) = flags(&phases, &panel());
        let lines: Vec<usize> = flags.iter().map(|flag| flag.line).collect();
        assert_eq!((lines, hidden), (vec![0, 1, 0], 0));
    }

    #[test]
    fn phases_of_one_name_in_a_row_are_one_flag_and_the_rest_is_counted() {
        let mut many: Vec<(&str, f64, f64)> = (0..9).map(|at| ("request", f64::from(at), 9.0)).collect();
        let (alike, hidden) = flags(&phases(&many), &panel());
        assert_eq!(alike.len(), 1);
        assert_eq!((alike[0].words.as_str(), hidden), ("request × 9", 0));
        for (index, phase) in many.iter_mut().enumerate() {
            phase.0 = ["one", "two", "three"][index % 3];
            phase.1 = 0.1 * index as f64;
        }
        let (apart, hidden) = flags(&phases(&many), &panel());
        assert_eq!((apart.len(), hidden), (4, 5));
    }

    #[test]
    fn a_name_at_the_right_end_stays_within_the_panel() {
        let (flags, _) = flags(&phases(&[("unload", 49.9, 50.0)]), &panel());
        assert!(flags[0].letters < 470.0 && flags[0].begin > 498.0);
    }

    #[test]
    fn every_second_phase_that_lies_in_no_other_has_a_band() {
        let phases = phases(&[
            ("cold", 0.0, 10.0),
            ("load", 0.0, 4.0),
            ("ask", 5.0, 6.0),
            ("pause", 10.0, 11.0),
            ("warm", 11.0, 20.0),
        ]);
        assert_eq!(bands(&phases), [[0.0, 10.0], [11.0, 20.0]]);
    }
}
