//! A picture that grows from top to bottom by what is drawn into it.

use std::fmt::Write as _;

use super::lettering::{fitted, width};
use crate::compare::Format;
use crate::compare::report::markup::escaped;

/// Width of every picture, in its own units.
pub(super) const WIDTH: f64 = 760.0;
/// Room at the sides.
pub(super) const MARGIN: f64 = 16.0;
/// Sizes of letters: of what stands beside axes, of other text, and of titles; the style has the same.
pub(super) const SMALL: f64 = 11.0;
pub(super) const ORDINARY: f64 = 12.0;
const TITLE: f64 = 15.0;
/// Bold letters are wider than the estimate of [`width`].
pub(super) const BOLD: f64 = 1.1;

const STYLE: &str = include_str!("style.css");

/// A finished picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Its file beside the report: `plots/NAME.svg`.
    pub file: String,
    /// What it shows, in a few words.
    pub title: String,
    /// What it shows, for who cannot see it.
    pub description: String,
    height: f64,
    body: String,
}

impl Plot {
    /// The picture as a file of its own.
    pub fn to_svg(&self) -> String {
        let (title, description) = (escaped(&self.title), escaped(&self.description));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 \
             {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<desc>{description}</desc>\n<style>{STYLE}</style>\n<rect class=\"page\" \
             width=\"{WIDTH}\" height=\"{height:.0}\"/>\n{}</svg>\n",
            self.body,
            height = self.height,
        )
    }

    /// The picture as part of a page that has [`Plot::STYLE`].
    pub(in crate::compare::report) fn to_element(&self) -> String {
        format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}. {}\">\n{}</svg>\n",
            self.height,
            escaped(&self.title),
            escaped(&self.description),
            self.body
        )
    }

    /// Colours, lines and letters of all pictures, for a light page and a dark one.
    pub(in crate::compare::report) const STYLE: &str = STYLE;
}

/// Why there is no picture, in one sentence that stands alone; else the picture.
pub type Drawn = Result<Plot, String>;

/// Where text begins or ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A sample of a mark, and what it means.
pub(super) struct Entry {
    /// Drawn into a box of 24 by 12.
    pub(super) sample: String,
    pub(super) words: String,
}

pub(super) struct Sheet {
    title: String,
    body: String,
    /// Where the next part begins.
    pub(super) bottom: f64,
}

impl Sheet {
    /// A picture under a title that says what it shows, and a line that says of what.
    pub(super) fn new(title: &str, of_what: &str) -> Self {
        let mut sheet = Self {
            title: format!("{title}: {of_what}"),
            body: String::new(),
            bottom: 48.0,
        };
        let room = WIDTH - 2.0 * MARGIN;
        sheet.text("title", MARGIN, 24.0, Anchor::Start, &fitted(title, TITLE * BOLD, room));
        sheet.text("soft", MARGIN, 43.0, Anchor::Start, &fitted(of_what, ORDINARY, room));
        sheet
    }

    /// What the marks mean, in as many lines as it takes.
    pub(super) fn legend(&mut self, entries: &[Entry]) {
        const SAMPLE: f64 = 24.0;
        const GAP: f64 = 18.0;
        const LINE: f64 = 18.0;
        let mut left = MARGIN;
        let mut middle = self.bottom + 12.0;
        for entry in entries {
            let words = fitted(&entry.words, ORDINARY, WIDTH - 2.0 * MARGIN - SAMPLE - 6.0);
            let needed = SAMPLE + 6.0 + width(&words, ORDINARY);
            if left > MARGIN && left + needed > WIDTH - MARGIN {
                left = MARGIN;
                middle += LINE;
            }
            let _ = writeln!(
                self.body,
                "<g transform=\"translate({left:.1} {:.1})\">{}</g>",
                middle - 6.0,
                entry.sample
            );
            self.text("soft", left + SAMPLE + 6.0, middle + 4.0, Anchor::Start, &words);
            left += needed + GAP;
        }
        self.bottom = middle + LINE;
    }

    /// Text of others or of ours at a place; nothing where it is empty.
    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        if text.is_empty() {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{}</text>",
            escaped(text)
        );
    }

    /// A path by its commands.
    pub(super) fn path(&mut self, class: &str, commands: &str) {
        if !commands.is_empty() {
            let _ = writeln!(self.body, "<path class=\"{class}\" d=\"{commands}\"/>");
        }
    }

    pub(super) fn rectangle(&mut self, class: &str, [left, top, right, bottom]: [f64; 4]) {
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            right - left,
            bottom - top
        );
    }

    /// A small dot for one value among many.
    pub(super) fn dot(&mut self, format: Format, x: f64, y: f64) {
        let _ = writeln!(
            self.body,
            "<circle class=\"dot {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>",
            format.name()
        );
    }

    /// The mark of a format: a disc for GGUF, a diamond for MLX.
    pub(super) fn mark(&mut self, format: Format, x: f64, y: f64) {
        let mark = mark(format, x, y);
        let _ = writeln!(self.body, "{mark}");
    }

    pub(super) fn finish(self, file: String, description: String) -> Plot {
        Plot {
            file,
            title: self.title,
            description,
            height: (self.bottom + 8.0).ceil(),
            body: self.body,
        }
    }
}

/// The mark of a format at a place.
pub(super) fn mark(format: Format, x: f64, y: f64) -> String {
    let name = format.name();
    match format {
        Format::Gguf => format!("<circle class=\"mark {name}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        Format::Mlx => format!(
            "<path class=\"mark {name}\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>",
            y - 5.0
        ),
    }
}

/// A line with the mark of its format, for a legend.
pub(super) fn line_sample(format: Format) -> String {
    format!(
        "<path class=\"line {}\" d=\"M0 6H24\"/>{}",
        format.name(),
        mark(format, 12.0, 6.0)
    )
}
