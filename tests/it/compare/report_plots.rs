//! Pictures of a comparison: a strict parser reads them, nothing leaves the picture or lies on other text, and what is drawn
//! stands where the axes say.

use mlx_diagnose::compare::report::plots::{PairPlots, Plot, plots};
use mlx_diagnose::compare::{Format, MemorySample};
use roxmltree::{Document, Node};
use rstest::rstest;

use crate::compare::report_situations::{
    Situation, clear_win, contradicting, interrupted, leak, one_side_failed, sample,
};

fn pictures(situation: &Situation) -> PairPlots {
    let mut pairs = plots(&situation.record, &situation.samples, &situation.analysis);
    assert_eq!(pairs.len(), 1);
    pairs.remove(0)
}

fn classes<'a>(node: &'a Node<'_, '_>) -> impl Iterator<Item = &'a str> {
    node.attribute("class").unwrap_or_default().split(' ')
}

fn has_classes(node: &Node<'_, '_>, wanted: &[&str]) -> bool {
    wanted.iter().all(|wanted| classes(node).any(|class| class == *wanted))
}

/// Elements of these classes outside the legend.
fn drawn<'a, 'input>(document: &'a Document<'input>, wanted: &'a [&str]) -> Vec<Node<'a, 'input>> {
    let nodes = document.descendants().filter(|node| has_classes(node, wanted));
    nodes
        .filter(|node| !node.ancestors().any(|above| above.has_tag_name("g")))
        .collect()
}

fn number(node: &Node<'_, '_>, name: &str) -> f64 {
    let text = node.attribute(name).unwrap_or("0");
    let number: f64 = text.parse().unwrap_or_else(|_| panic!("{name}={text}"));
    assert!(number.is_finite(), "{name}={text}");
    number
}

/// Every place of a path's commands, of which the tests know those that pictures use.
fn places(commands: &str) -> Vec<(f64, f64)> {
    let spaced: String = commands
        .chars()
        .flat_map(|character| match character {
            'A'..='Z' | 'a'..='z' => vec![' ', character, ' '],
            '-' => vec![' ', '-'],
            _ => vec![character],
        })
        .collect();
    let mut tokens = spaced.split_whitespace().peekable();
    let (mut x, mut y, mut command) = (0.0, 0.0, String::new());
    let mut places = Vec::new();
    while let Some(token) = tokens.peek() {
        if token.parse::<f64>().is_err() {
            (*token).clone_into(&mut command);
            tokens.next();
            if command.eq_ignore_ascii_case("z") {
                continue;
            }
        }
        let mut next = || {
            tokens
                .next()
                .and_then(|token| token.parse::<f64>().ok())
                .expect("a coordinate")
        };
        match command.as_str() {
            "M" | "L" => (x, y) = (next(), next()),
            "l" => (x, y) = (x + next(), y + next()),
            "H" => x = next(),
            "h" => x += next(),
            "V" => y = next(),
            "v" => y += next(),
            other => panic!("the command {other} in {commands}"),
        }
        places.push((x, y));
    }
    places
}

/// Corners of what an element covers; of text, by letters of an ordinary font.
fn corners(node: &Node<'_, '_>) -> Vec<(f64, f64)> {
    let x = number(node, "x");
    let y = number(node, "y");
    match node.tag_name().name() {
        "rect" => {
            let (width, height) = (number(node, "width"), number(node, "height"));
            assert!(width >= 0.0 && height >= 0.0, "{node:?}");
            vec![(x, y), (x + width, y + height)]
        }
        "circle" => {
            let (x, y, r) = (number(node, "cx"), number(node, "cy"), number(node, "r"));
            vec![(x - r, y - r), (x + r, y + r)]
        }
        "path" => places(node.attribute("d").unwrap_or_default()),
        "text" => {
            let size = match node.attribute("class") {
                Some("title") => 15.0,
                Some("small") => 11.0,
                _ => 12.0,
            };
            let width = node.text().unwrap_or_default().chars().count() as f64 * size * 0.52;
            let left = match node.attribute("text-anchor") {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            vec![(left, y - size * 0.7), (left + width, y + size * 0.2)]
        }
        _ => Vec::new(),
    }
}

fn offset(node: &Node<'_, '_>) -> (f64, f64) {
    let moved = node.ancestors().find_map(|above| above.attribute("transform"));
    let Some(moved) = moved else { return (0.0, 0.0) };
    let numbers = moved.trim_start_matches("translate(").trim_end_matches(')');
    let (x, y) = numbers.split_once(' ').unwrap();
    (x.parse().unwrap(), y.parse().unwrap())
}

/// That everything stands within the picture and no text lies on another.
fn assert_sound(plot: &Plot) {
    let svg = plot.to_svg();
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", plot.file);
    let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let root = document.root_element();
    let view: Vec<f64> = root
        .attribute("viewBox")
        .unwrap()
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let (width, height) = (view[2], view[3]);
    let mut texts: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for node in root.descendants().filter(Node::is_element) {
        let (dx, dy) = offset(&node);
        let corners: Vec<(f64, f64)> = corners(&node).iter().map(|(x, y)| (x + dx, y + dy)).collect();
        for (x, y) in &corners {
            let is_inside = (-0.1..=width + 0.1).contains(x) && (-0.1..=height + 0.1).contains(y);
            assert!(is_inside, "{}: {x} {y} of {node:?} in {width} by {height}", plot.file);
        }
        if node.has_tag_name("text") {
            texts.push((node.text().unwrap_or_default().to_owned(), corners));
        }
    }
    for (index, (one, first)) in texts.iter().enumerate() {
        for (other, second) in &texts[..index] {
            let apart = first[1].0 <= second[0].0
                || second[1].0 <= first[0].0
                || first[1].1 <= second[0].1
                || second[1].1 <= first[0].1;
            assert!(apart, "{}: `{one}` lies on `{other}`", plot.file);
        }
    }
    assert_eq!(root.attribute("role"), Some("img"));
    assert!(root.attribute("aria-label").is_some_and(|label| !label.is_empty()));
    for name in ["title", "desc"] {
        let found = root
            .children()
            .find(|node| node.has_tag_name((root.tag_name().namespace().unwrap(), name)));
        assert!(
            found.is_some_and(|node| node.text().is_some_and(|text| !text.is_empty())),
            "{name}"
        );
    }
}

fn all_equal() -> Situation {
    let mut situation = clear_win();
    for test in &mut situation.record.tests {
        for request in &mut test.requests {
            request.due = 1.0;
            request.times.pieces = vec![1.5; 3];
            request.times.ended = 2.0;
        }
    }
    for samples in situation.samples.values_mut() {
        *samples = (0..50).map(|index| sample(f64::from(index), 3e8)).collect();
    }
    for leak in &mut situation.analysis.pairs[0].leaks {
        leak.values.iter_mut().for_each(|value| value.1 = 3e8);
        leak.slope = None;
    }
    situation
}

fn zeros() -> Situation {
    let mut situation = all_equal();
    for test in &mut situation.record.tests {
        for request in &mut test.requests {
            request.due = 0.0;
            request.times.pieces = vec![0.0; 3];
            request.times.ended = 0.0;
        }
        for phase in &mut test.phases {
            (phase.begin, phase.end) = (0.0, 0.0);
        }
    }
    for samples in situation.samples.values_mut() {
        *samples = vec![sample(0.0, 0.0)];
    }
    for leak in &mut situation.analysis.pairs[0].leaks {
        leak.values.iter_mut().for_each(|value| value.1 = 0.0);
    }
    situation
}

/// A day of samples, one of which stands out.
fn many_samples(spike: f64) -> Situation {
    let mut situation = clear_win();
    for samples in situation.samples.values_mut() {
        let bytes = |index: u32| if index == 12_345 { spike } else { 3e8 };
        *samples = (0..20_000)
            .map(|index| sample(f64::from(index) * 0.1, bytes(index)))
            .collect();
    }
    situation
}

/// One sample, one request, one value.
fn one_of_each() -> Situation {
    let mut situation = clear_win();
    for test in &mut situation.record.tests {
        test.requests.truncate(2);
    }
    for samples in situation.samples.values_mut() {
        samples.truncate(1);
    }
    for leak in &mut situation.analysis.pairs[0].leaks {
        leak.values.truncate(1);
        leak.slope = None;
    }
    situation
}

/// Names as long as they come, with everything that markup is made of.
fn long_names() -> Situation {
    let name = "<b a='1'>\"Llama-3.3\" & 70B</b> ".repeat(7);
    let mut situation = leak().renamed(&name);
    for (index, test) in situation.record.tests.iter_mut().enumerate() {
        for request in &mut test.requests {
            request.group.push_str(&name);
        }
        test.server.as_mut().unwrap().version = Some(name.clone());
        for (number, phase) in test.phases.iter_mut().enumerate() {
            phase.name = format!("{} {index} {number}", name.repeat(2));
        }
    }
    situation
}

/// A phase for each request, within another.
fn many_phases() -> Situation {
    let mut situation = clear_win();
    for test in &mut situation.record.tests {
        let template = test.phases[2].clone();
        let requests = test.requests.iter().enumerate().map(|(index, request)| {
            let mut phase = template.clone();
            phase.name = format!("request {index}");
            (phase.begin, phase.end) = (request.due, request.times.ended);
            phase
        });
        let requests: Vec<_> = requests.collect();
        test.phases.extend(requests);
    }
    situation
}

/// A system that tells nothing but what is resident.
fn macos() -> Situation {
    let mut situation = clear_win();
    for process in situation
        .samples
        .values_mut()
        .flatten()
        .flat_map(|sample| &mut sample.processes)
    {
        process.footprint = process.resident;
        (process.proportional, process.anonymous, process.file) = (None, None, None);
    }
    situation
}

#[rstest]
#[case::clear_win(clear_win())]
#[case::contradicting(contradicting())]
#[case::leak(leak())]
#[case::one_side_failed(one_side_failed())]
#[case::all_equal(all_equal())]
#[case::zeros(zeros())]
#[case::many_samples(many_samples(9e8))]
#[case::one_of_each(one_of_each())]
#[case::long_names(long_names())]
#[case::many_phases(many_phases())]
#[case::macos(macos())]
fn nothing_leaves_a_picture_and_no_text_lies_on_other_text(#[case] situation: Situation) {
    let pictures = pictures(&situation);
    let mut count = 0;
    for plot in pictures.drawn() {
        assert_sound(plot);
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

#[test]
fn without_data_a_sentence_says_so() {
    let pictures = pictures(&interrupted());
    assert_eq!(pictures.drawn().count(), 0);
    let all = [&pictures.first_token, &pictures.context, &pictures.leak];
    for drawn in all.into_iter().chain(&pictures.concurrency).chain(&pictures.memory) {
        let why = drawn.as_ref().unwrap_err();
        assert!(why.contains(" is not drawn") && why.ends_with('.'), "{why}");
    }
}

#[rstest]
#[case::first_token(|pictures: &PairPlots| pictures.first_token.clone(), &["seconds, powers of ten at equal distances: less is better", "GGUF: median and quartiles", "MLX: median and quartiles", "one answer", "concurrency-8"])]
#[case::context(|pictures: &PairPlots| pictures.context.clone(), &["tokens/s", "tokens of the prompt", "Reading the prompt: more is better", "Writing the answer: more is better"])]
#[case::concurrency(|pictures: &PairPlots| pictures.concurrency[0].clone(), &["tokens/s", "seconds", "requests at one time", "1", "2", "4", "8"])]
#[case::memory(|pictures: &PairPlots| pictures.memory[0].clone(), &["MB", "seconds since the test began", "load", "warm-up", "measure", "unload", "anonymous", "charged, other rounds", "GGUF, llama-server 1.2.3, round 1"])]
#[case::leak(|pictures: &PairPlots| pictures.leak.clone(), &["MB more", "request", "GGUF, prompt cache on: settles", "MLX, prompt cache off: steady"])]
fn axes_have_units_and_everything_has_a_name(
    #[case] choose: fn(&PairPlots) -> Result<Plot, String>,
    #[case] expected: &[&str],
) {
    let plot = choose(&pictures(&clear_win())).unwrap();
    let svg = plot.to_svg();
    let document = Document::parse(&svg).unwrap();
    let texts: Vec<&str> = document
        .descendants()
        .filter(|node| node.tag_name().name() == "text")
        .filter_map(|node| node.text())
        .collect();
    for text in expected {
        assert!(texts.contains(text), "no `{text}` in {texts:?}");
    }
    assert!(svg.contains("prefers-color-scheme:dark"));
}

/// What the axis at the left of the `index`th panel says of a height: from the places of its labels.
fn reading(document: &Document<'_>, index: usize) -> impl Fn(f64) -> f64 + use<> {
    let labels: Vec<(f64, f64)> = document
        .descendants()
        .filter(|node| node.attribute("text-anchor") == Some("end") && has_classes(node, &["small"]))
        .filter_map(|node| Some((number(&node, "y") - 4.0, node.text()?.parse::<f64>().ok()?)))
        .collect();
    // Panels begin where a label is below the one before it in value.
    let panels: Vec<&[(f64, f64)]> = labels.chunk_by(|one, next| next.1 > one.1).collect();
    let (Some(&(low, zero)), Some(&(high, top))) = (panels[index].first(), panels[index].last()) else {
        panic!("no labels");
    };
    move |y| zero + (y - low) / (high - low) * (top - zero)
}

#[test]
fn the_highest_of_20_000_samples_stays_in_a_small_picture() {
    let pictures = pictures(&many_samples(9e8));
    let plot = pictures.memory[0].as_ref().unwrap();
    let svg = plot.to_svg();
    assert!(svg.len() < 200_000, "{}", svg.len());
    let document = Document::parse(&svg).unwrap();
    let lines = drawn(&document, &["line", "solid", "gguf"]);
    let line = places(lines[0].attribute("d").unwrap());
    let highest = line.iter().map(|place| place.1).fold(f64::INFINITY, f64::min);
    let megabytes = reading(&document, 0)(highest);
    assert!((megabytes - 900.0).abs() < 2.0, "{megabytes}");
}

#[test]
fn both_formats_have_the_same_axes_of_memory() {
    let pictures = pictures(&contradicting());
    let svg = pictures.memory[0].as_ref().unwrap().to_svg();
    let document = Document::parse(&svg).unwrap();
    for (index, (format, expected)) in [("gguf", 262.0), ("mlx", 798.0)].into_iter().enumerate() {
        let classes = ["line", "solid", format];
        let lines = drawn(&document, &classes);
        let line = places(lines[0].attribute("d").unwrap());
        let highest = line.iter().map(|place| place.1).fold(f64::INFINITY, f64::min);
        let megabytes = reading(&document, index)(highest);
        assert!((megabytes - expected).abs() < 5.0, "{format}: {megabytes}");
    }
    let [gguf, mlx] = [0, 1].map(|index| {
        let reading = reading(&document, index);
        (reading(0.0) - reading(100.0)).round()
    });
    assert_eq!(gguf, mlx);
}

#[test]
fn a_gap_in_memory_is_a_gap_in_the_line() {
    let mut situation = clear_win();
    for samples in situation.samples.values_mut() {
        let gone = |sample: &mut MemorySample| sample.processes.clear();
        samples.iter_mut().skip(20).take(10).for_each(gone);
    }
    let pictures = pictures(&situation);
    let svg = pictures.memory[0].as_ref().unwrap().to_svg();
    let document = Document::parse(&svg).unwrap();
    let lines = drawn(&document, &["line", "solid", "mlx"]);
    assert_eq!(lines[0].attribute("d").unwrap().matches('M').count(), 2);
}

#[test]
fn values_without_noise_lie_on_the_line_of_their_slope() {
    let mut situation = leak();
    let leaking = situation.pair().leaks.last_mut().unwrap();
    for (request, bytes) in &mut leaking.values {
        *bytes = 5e8 + 1e6 * *request as f64;
    }
    let slope = leaking.slope.as_mut().unwrap();
    (slope.estimate, slope.low, slope.high) = (1e6, 0.9e6, 1.1e6);
    let svg = pictures(&situation).leak.unwrap().to_svg();
    let document = Document::parse(&svg).unwrap();
    let lines = drawn(&document, &["line", "mlx"]);
    let line = places(lines[0].attribute("d").unwrap());
    let [(left, begin), (right, end)] = line[..] else {
        panic!("{line:?}");
    };
    let dots = drawn(&document, &["dot", "mlx"]);
    assert_eq!(dots.len(), 37);
    for dot in dots {
        let share = (number(&dot, "cx") - left) / (right - left);
        let expected = begin + share * (end - begin);
        assert!((number(&dot, "cy") - expected).abs() < 0.6, "{dot:?}, {expected}");
    }
    // 36 requests after the first one, 1 MB each.
    let reading = reading(&document, 2);
    assert!((reading(end) - 36.0).abs() < 0.5, "{}", reading(end));
    let band = places(drawn(&document, &["interval", "mlx"])[0].attribute("d").unwrap());
    let highest = band.iter().map(|place| place.1).fold(f64::INFINITY, f64::min);
    // Half of the requests stand after the middle: 18 times 0.1 MB.
    assert!((reading(highest) - 37.8).abs() < 0.5, "{}", reading(highest));
}

#[test]
fn first_tokens_stand_where_the_axis_says() {
    let mut situation = clear_win();
    situation
        .record
        .tests
        .retain(|test| test.key.scenario == "simple-generation");
    for test in &mut situation.record.tests {
        let first = if test.key.format == Format::Gguf { 4.0 } else { 1.0 };
        for request in &mut test.requests {
            request.times.pieces = vec![request.due + first];
        }
    }
    let svg = pictures(&situation).first_token.unwrap().to_svg();
    let document = Document::parse(&svg).unwrap();
    let label = |wanted: &str| {
        let of_axis =
            |node: &Node<'_, '_>| node.attribute("text-anchor") == Some("middle") && node.text() == Some(wanted);
        number(&document.descendants().find(of_axis).unwrap(), "x")
    };
    for (format, expected) in [("gguf", "4"), ("mlx", "1")] {
        let classes = ["dot", format];
        let dots = drawn(&document, &classes);
        // 16 equal answers fall on one dot.
        assert_eq!(dots.len(), 1);
        assert!((number(&dots[0], "cx") - label(expected)).abs() < 0.6);
    }
}

#[test]
fn units_of_an_axis_follow_its_largest_value() {
    for (bytes, expected) in [(3.2e10, "GB"), (4.1e8, "MB"), (5e4, "kB")] {
        let mut situation = clear_win();
        for samples in situation.samples.values_mut() {
            *samples = (0..9).map(|index| sample(f64::from(index), bytes)).collect();
        }
        let svg = pictures(&situation).memory[0].as_ref().unwrap().to_svg();
        assert!(svg.contains(&format!(">{expected}</text>")), "{expected}");
    }
}
