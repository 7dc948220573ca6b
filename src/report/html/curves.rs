//! The course of training as two pictures: the loss and the norm of the gradients by step.

use std::fmt::Write as _;

use super::axis::{Axis, round_step};
use super::markup::{escaped, folded, table};
use crate::report::{CurvePoint, CurveStep, Curves};
use crate::rules::wording::{counted, difference, nats, shortest};

/// Size of a picture in its own units; on a wide page it is drawn a little larger.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 214.0;
/// Room around the plot for the labels.
const LEFT: f64 = 42.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 34.0;
/// Half the size of a mark.
const MARK: f64 = 3.0;
/// Up to this number every step is marked, beyond it only the line is drawn.
const MARKED_STEPS: usize = 60;
/// Up to this number every step is a row of the table.
const TABLE_STEPS: usize = 200;
/// A loss that rises this many times above where it began, or above a uniform guess, needs a logarithmic axis.
const EXPLODED: f64 = 10.0;
/// Norms that are this many times apart need a logarithmic axis.
const FAR_APART: f64 = 30.0;

/// Both pictures, what their marks mean, and the numbers.
pub(super) fn curves(curves: &Curves) -> String {
    let mut text = "<div class=\"plots\">\n".to_owned();
    text.push_str(&loss(curves));
    text.push_str(&gradients(curves));
    text.push_str("</div>\n");
    text.push_str(&numbers(curves));
    text
}

fn loss(curves: &Curves) -> String {
    let losses: Vec<Option<f64>> = curves.steps.iter().map(|step| step.loss).collect();
    let mut drawn: Vec<f64> = losses.iter().flatten().copied().collect();
    drawn.extend(
        curves
            .validation
            .iter()
            .chain(&curves.same_rows)
            .map(|point| point.loss),
    );
    let began = losses.iter().copied().flatten().next();
    let ordinary = began.into_iter().chain(curves.uniform_loss).fold(0.0, f64::max);
    let exploded =
        ordinary > 0.0 && drawn.iter().any(|loss| *loss > EXPLODED * ordinary) && drawn.iter().all(|loss| *loss > 0.0);
    let axis = if exploded { Axis::logarithmic(&drawn) } else { None };
    let mut axis = axis.unwrap_or_else(|| Axis::linear(&drawn));
    // A guess that is a little above the curve is shown; one that is far above would press the curve flat.
    let highest = drawn.iter().copied().fold(0.0, f64::max);
    let near = curves.uniform_loss.filter(|uniform| *uniform <= 1.6 * highest);
    if let Some(uniform) = near.filter(|uniform| !axis.holds(*uniform) && !exploded) {
        drawn.push(uniform);
        axis = Axis::linear(&drawn);
    }
    let mut plot = Plot::new("loss", "Loss by step", "nats per token", axis, curves);
    let uniform = curves.uniform_loss.filter(|uniform| plot.axis.holds(*uniform));
    if let Some(uniform) = uniform {
        plot.level("guess", uniform, &format!("a uniform guess, {uniform:.3}"));
    }
    plot.line(&losses, "loss of the step's batch", |value| format!("{value:.3}"));
    plot.points(
        "rows",
        Shape::Square,
        &curves.same_rows,
        "first training rows",
        "before and after",
    );
    plot.points(
        "validation",
        Shape::Diamond,
        &curves.validation,
        "validation rows",
        "between the steps",
    );
    plot.not_finite(&losses, "loss not finite");
    let mut description = course(&losses, "loss", |value| format!("{value:.3}"));
    for (what, points) in [
        ("Validation rows", &curves.validation),
        ("First training rows", &curves.same_rows),
    ] {
        if let [first, .., last] = points.as_slice() {
            let _ = write!(
                description,
                " {what}: {:.3} before, {:.3} after.",
                first.loss, last.loss
            );
        }
    }
    let beyond = curves.uniform_loss.filter(|_| uniform.is_none());
    if let Some(beyond) = beyond {
        plot.legend
            .push(format!("a uniform guess has {beyond:.3}, beyond the picture"));
    }
    plot.figure(&description)
}

fn gradients(curves: &Curves) -> String {
    let norms: Vec<Option<f64>> = curves.steps.iter().map(|step| step.gradient_norm).collect();
    let finite: Vec<f64> = norms.iter().flatten().copied().collect();
    let largest = finite.iter().copied().fold(0.0, f64::max);
    let smallest = finite
        .iter()
        .copied()
        .filter(|norm| *norm > 0.0)
        .fold(f64::INFINITY, f64::min);
    let axis = if largest > FAR_APART * smallest {
        Axis::logarithmic(&finite)
    } else {
        None
    };
    let axis = axis.unwrap_or_else(|| Axis::linear(&finite));
    let title = "Norm of the gradients by step";
    let mut plot = Plot::new("gradients", title, "norm, before clipping", axis, curves);
    if let Some(clip) = curves.clip_norm.filter(|clip| plot.axis.holds(*clip)) {
        plot.level("guess", clip, &format!("clipped to {}", shortest(clip)));
    }
    plot.line(&norms, "norm over all gradients", |value| difference(Some(value)));
    plot.zeros(&norms);
    plot.not_finite(&norms, "norm not finite");
    plot.figure(&course(&norms, "norm", |value| difference(Some(value))))
}

/// A series in words, for who cannot see the picture.
fn course(values: &[Option<f64>], what: &str, shown: fn(f64) -> String) -> String {
    let finite: Vec<f64> = values.iter().flatten().copied().collect();
    let Some((first, last)) = finite.first().zip(finite.last()) else {
        return format!("No {what} of {} is finite.", counted(values.len(), "step"));
    };
    let low = finite.iter().copied().fold(f64::INFINITY, f64::min);
    let high = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let absent = match values.len() - finite.len() {
        0 => String::new(),
        count => format!("; {} not finite", counted(count, "step")),
    };
    format!(
        "The {what} over {}: first {}, last {}, lowest {}, highest {}{absent}.",
        counted(values.len(), "step"),
        shown(*first),
        shown(*last),
        shown(low),
        shown(high)
    )
}

#[derive(Clone, Copy)]
enum Shape {
    Square,
    Diamond,
}

/// A picture that grows by what is drawn into it.
struct Plot<'curves> {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    axis: Axis,
    steps: &'curves [CurveStep],
    /// The smallest and the largest number of a step.
    ends: (f64, f64),
    body: String,
    /// What the marks mean, as markup.
    legend: Vec<String>,
}

impl<'curves> Plot<'curves> {
    fn new(id: &'static str, title: &'static str, unit: &'static str, axis: Axis, curves: &'curves Curves) -> Self {
        let mut plot = Self {
            id,
            title,
            unit,
            axis,
            steps: &curves.steps,
            ends: numbers_of(&curves.steps),
            body: String::new(),
            legend: Vec::new(),
        };
        plot.frame();
        plot
    }

    /// A step stands in the middle of its part of the axis, and what was measured between two steps between them.
    fn x(&self, step: f64) -> f64 {
        let (first, last) = self.ends;
        let share = (step - first + 0.5) / (last - first + 1.0);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.axis.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn frame(&mut self) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let unit = if self.axis.is_logarithmic() {
            format!("{}, logarithmic", self.unit)
        } else {
            self.unit.to_owned()
        };
        let _ = writeln!(self.body, "<text class=\"unit\" x=\"{LEFT}\" y=\"11\">{unit}</text>");
        for (value, label) in self.axis.labels() {
            let y = self.y(value);
            let _ = writeln!(
                self.body,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 3.5,
                escaped(&label)
            );
        }
        let (first, last) = self.ends;
        for step in step_labels(first, last) {
            let x = self.x(step);
            let _ = writeln!(
                self.body,
                "<path class=\"tick\" d=\"M{x:.1} {floor}v4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step}</text>",
                floor + 15.0
            );
        }
        let _ = writeln!(
            self.body,
            "<path class=\"axis\" d=\"M{LEFT} {floor}H{right}\"/><text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">step</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 4.0
        );
    }

    fn level(&mut self, class: &str, value: f64, words: &str) {
        let y = self.y(value);
        let _ = writeln!(
            self.body,
            "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{:.1}\"/>",
            WIDTH - RIGHT
        );
        self.explain(&format!("<path class=\"{class}\" d=\"M0 6H18\"/>"), words);
    }

    /// A series, with gaps where it is not finite.
    fn line(&mut self, values: &[Option<f64>], words: &str, shown: fn(f64) -> String) {
        let (mut path, mut marks) = (String::new(), String::new());
        for (index, (step, value)) in self.steps.iter().zip(values).enumerate() {
            let Some(value) = *value else { continue };
            let (x, y) = (self.x(step.step as f64), self.y(value));
            let follows = index > 0 && values[index - 1].is_some();
            let _ = write!(path, "{}{x:.1} {y:.1}", if follows { 'L' } else { 'M' });
            let is_alone = !follows && values.get(index + 1).copied().flatten().is_none();
            if values.len() <= MARKED_STEPS || is_alone {
                let _ = writeln!(
                    marks,
                    "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\"><title>step {}: {}</title></circle>",
                    MARK - 0.5,
                    step.step,
                    escaped(&shown(value))
                );
            }
        }
        if path.is_empty() {
            return;
        }
        let _ = writeln!(self.body, "<path class=\"line\" d=\"{path}\"/>");
        self.body.push_str(&marks);
        let dot = if marks.is_empty() {
            ""
        } else {
            "<circle class=\"mark\" cx=\"9\" cy=\"6\" r=\"2.5\"/>"
        };
        self.explain(&format!("<path class=\"line\" d=\"M0 6H18\"/>{dot}"), words);
    }

    fn points(&mut self, class: &str, shape: Shape, points: &[CurvePoint], what: &str, when: &str) {
        if points.is_empty() {
            return;
        }
        if let (Shape::Diamond, [_, _, ..]) = (shape, points) {
            let path: Vec<String> = points
                .iter()
                .map(|point| format!("{:.1} {:.1}", self.x(point.updates as f64 + 0.5), self.y(point.loss)))
                .collect();
            let _ = writeln!(self.body, "<path class=\"{class} thread\" d=\"M{}\"/>", path.join("L"));
        }
        for point in points {
            let (x, y) = (self.x(point.updates as f64 + 0.5), self.y(point.loss));
            let _ = writeln!(
                self.body,
                "<path class=\"{class}\" d=\"{}\"><title>{what} after {}: {:.3}</title></path>",
                outline(shape, x, y),
                counted(point.updates, "update"),
                point.loss
            );
        }
        self.explain(
            &format!("<path class=\"{class}\" d=\"{}\"/>", outline(shape, 9.0, 6.0)),
            &format!("{what}, {when}"),
        );
    }

    /// Zero has no place on a logarithmic axis; its mark stands on the floor.
    fn zeros(&mut self, values: &[Option<f64>]) {
        if !self.axis.is_logarithmic() || !values.contains(&Some(0.0)) {
            return;
        }
        let floor = HEIGHT - BOTTOM;
        for (step, _) in self.steps.iter().zip(values).filter(|(_, value)| **value == Some(0.0)) {
            let x = self.x(step.step as f64);
            let _ = writeln!(
                self.body,
                "<circle class=\"zero\" cx=\"{x:.1}\" cy=\"{floor}\" r=\"{MARK}\"/>"
            );
        }
        self.explain("<circle class=\"zero\" cx=\"9\" cy=\"6\" r=\"3\"/>", "exactly zero");
    }

    /// A cross above the plot for each step that has no number.
    fn not_finite(&mut self, values: &[Option<f64>], words: &str) {
        let absent = self.steps.iter().zip(values).filter(|(_, value)| value.is_none());
        let crosses: Vec<(f64, usize)> = absent.map(|(step, _)| (self.x(step.step as f64), step.step)).collect();
        for (x, step) in &crosses {
            let y = TOP - 4.0;
            let _ = writeln!(
                self.body,
                "<path class=\"broken thread\" d=\"M{x:.1} {:.1}V{:.1}\"/><path class=\"broken\" d=\"{}\"><title>step {step}: {words}</title></path>",
                TOP,
                HEIGHT - BOTTOM,
                cross(*x, y)
            );
        }
        if !crosses.is_empty() {
            self.explain(&format!("<path class=\"broken\" d=\"{}\"/>", cross(9.0, 6.0)), words);
        }
    }

    fn explain(&mut self, sample: &str, words: &str) {
        self.legend.push(format!(
            "<svg class=\"plot sample\" width=\"18\" height=\"12\" viewBox=\"0 0 18 12\" aria-hidden=\"true\">{sample}</svg> {}",
            escaped(words)
        ));
    }

    fn figure(self, description: &str) -> String {
        let Self {
            id,
            title,
            body,
            legend,
            ..
        } = self;
        let legend = if legend.is_empty() {
            String::new()
        } else {
            format!("<ul class=\"legend\"><li>{}</li></ul>\n", legend.join("</li><li>"))
        };
        format!(
            "<figure>\n<figcaption>{title}</figcaption>\n<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-description\">\n<title id=\"{id}-title\">{title}</title>\n<desc \
             id=\"{id}-description\">{}</desc>\n{body}</svg>\n{legend}</figure>\n",
            escaped(description)
        )
    }
}

/// The smallest and the largest number of a step.
fn numbers_of(steps: &[CurveStep]) -> (f64, f64) {
    let numbers = || steps.iter().map(|step| step.step as f64);
    (
        numbers().fold(f64::INFINITY, f64::min),
        numbers().fold(f64::NEG_INFINITY, f64::max),
    )
}

/// Numbers of steps to write under the axis.
fn step_labels(first: f64, last: f64) -> Vec<f64> {
    const LABELS: f64 = 8.0;
    let every = round_step(((last - first + 1.0) / LABELS).max(1.0)).round();
    let mut labels = vec![first];
    let mut next = (first / every).floor() * every + every;
    while next <= last {
        // The first label must not touch the second.
        if next - first >= every / 2.0 {
            labels.push(next);
        }
        next += every;
    }
    labels
}

fn outline(shape: Shape, x: f64, y: f64) -> String {
    match shape {
        Shape::Square => format!("M{:.1} {:.1}h6v6h-6z", x - MARK, y - MARK),
        Shape::Diamond => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4z", y - MARK - 1.0),
    }
}

fn cross(x: f64, y: f64) -> String {
    format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - MARK, y - MARK)
}

fn numbers(curves: &Curves) -> String {
    let rows: Vec<Vec<String>> = curves
        .steps
        .iter()
        .take(TABLE_STEPS)
        .map(|step| {
            vec![
                step.step.to_string(),
                shortest(step.learning_rate),
                nats(step.loss),
                difference(step.gradient_norm),
            ]
        })
        .collect();
    let mut content = table(
        "Steps",
        &["step", "learning rate", "loss", "gradient norm"],
        &rows,
        &[0, 1, 2, 3],
    );
    if curves.steps.len() > TABLE_STEPS {
        let _ = writeln!(
            content,
            "<p class=\"aside\">{} more in the JSON</p>",
            counted(curves.steps.len() - TABLE_STEPS, "step")
        );
    }
    folded("The numbers of every step", &content)
}
