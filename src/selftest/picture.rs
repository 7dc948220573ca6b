use std::fmt::Write as _;

use super::summary::Matrix;

/// Side of a square in pixels.
const SQUARE: usize = 18;
/// Room for the names of rows.
const LEFT: usize = 250;
/// Room for the names of columns, which are written upwards.
const TOP: usize = 250;
/// Room for the title and the legend below.
const TITLE: usize = 30;
const LEGEND: usize = 40;
const MARGIN: usize = 12;

/// The matrix as a picture: a row for each fault, a column for each cause that was named, the darker the more often.
///
/// Blue is right and orange is wrong, which stay apart for colour-blind readers too.
pub fn to_svg(matrix: &Matrix) -> String {
    let width = (LEFT + matrix.columns.len() * SQUARE + MARGIN).max(LEFT + 420);
    let height = TITLE + TOP + matrix.rows.len() * SQUARE + LEGEND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">What was so (rows) and what was named (columns)\
         </text>\n"
    );
    grid(&mut svg, matrix);
    for (index, column) in matrix.columns.iter().enumerate() {
        let x = LEFT + index * SQUARE + SQUARE / 2 + 4;
        let y = TITLE + TOP - 6;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-90 {x} {y})\">{}</text>",
            escaped(column)
        );
    }
    for (row, name) in matrix.rows.iter().enumerate() {
        let top = TITLE + TOP + row * SQUARE;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 6,
            top + SQUARE - 5,
            escaped(name)
        );
        squares(&mut svg, matrix, row, top);
    }
    legend(&mut svg, TITLE + TOP + matrix.rows.len() * SQUARE + 24);
    svg.push_str("</svg>\n");
    svg
}

/// All empty squares at once: one element for each would be most of the file.
fn grid(svg: &mut String, matrix: &Matrix) {
    let top = TITLE + TOP;
    let (width, height) = (matrix.columns.len() * SQUARE, matrix.rows.len() * SQUARE);
    let _ = writeln!(
        svg,
        "<pattern id=\"grid\" x=\"{LEFT}\" y=\"{top}\" width=\"{SQUARE}\" height=\"{SQUARE}\" \
         patternUnits=\"userSpaceOnUse\"><rect width=\"{SQUARE}\" height=\"{SQUARE}\" fill=\"#fafafa\" \
         stroke=\"#e0e0e0\"/></pattern>\n<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
         fill=\"url(#grid)\"/>"
    );
}

fn squares(svg: &mut String, matrix: &Matrix, row: usize, top: usize) {
    let counts = &matrix.counts[row];
    let total: usize = counts.iter().sum();
    for (column, &count) in counts.iter().enumerate() {
        let left = LEFT + column * SQUARE;
        let is_right = matrix.right[row].contains(&column);
        let fill = match (count, is_right) {
            (0, false) => continue,
            (0, true) => "#eef3f8".to_owned(),
            _ => shade(is_right, count as f64 / total as f64),
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{SQUARE}\" height=\"{SQUARE}\" fill=\"{fill}\" stroke=\"#e0e0e0\"/>"
        );
        if count > 0 {
            let ink = if 2 * count > total { "white" } else { "black" };
            let size = if count < 100 { 11 } else { 8 };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"{size}\" fill=\"{ink}\">{count}</text>",
                left + SQUARE / 2,
                top + SQUARE - 5
            );
        }
    }
}

/// From nearly white to full blue or orange.
fn shade(is_right: bool, share: f64) -> String {
    const LIGHTEST: f64 = 0.25;
    let full: [f64; 3] = if is_right {
        [31.0, 94.0, 166.0]
    } else {
        [196.0, 78.0, 0.0]
    };
    let strength = LIGHTEST + (1.0 - LIGHTEST) * share;
    let [red, green, blue] = full.map(|value| (255.0 - (255.0 - value) * strength).round() as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn legend(svg: &mut String, baseline: usize) {
    let entries = [
        (shade(true, 1.0), "named rightly"),
        (shade(false, 1.0), "missed, misnamed or falsely accused"),
    ];
    let mut left = LEFT;
    for (fill, words) in entries {
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{fill}\"/><text x=\"{}\" y=\"{baseline}\">{words}</text>",
            baseline - 10,
            left + 18
        );
        left += 120;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
