//! A comparison for people: Markdown, a page and a terminal say the same, and no text of others can steer them.

use std::collections::BTreeSet;
use std::path::Path;

use insta::assert_snapshot;
use mlx_diagnose::compare::report::{report_files, to_html, to_markdown, to_text};
use mlx_diagnose::compare::{Failure, FailureKind, Outcome};
use roxmltree::{Document, Node, ParsingOptions};
use rstest::rstest;

use crate::compare::report_situations::{Situation, clear_win, contradicting, interrupted, leak, one_side_failed};
use crate::diagnosis::rules::snapshots;

const HOSTILE: &str =
    "</style></title><script>alert(\"1\")</script>' & \u{1b}[31m\u{7}\u{0}\u{202e}\u{fffe}\r\n--> ]]> | `x` *y* [z](w)";

fn markdown(situation: &Situation) -> String {
    to_markdown(&situation.record, &situation.samples, &situation.analysis)
}

fn html(situation: &Situation) -> String {
    to_html(&situation.record, &situation.samples, &situation.analysis)
}

fn text(situation: &Situation) -> String {
    to_text(
        &situation.record,
        &situation.analysis,
        Path::new("results/20261122_012000"),
        &report_files(&situation.record, &situation.samples, &situation.analysis),
    )
}

fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}\n{page}"))
}

/// Every string that others chose is hostile.
fn hostile() -> Situation {
    let mut situation = leak().renamed(HOSTILE);
    let hostile = || HOSTILE.to_owned();
    let failure = Failure {
        kind: FailureKind::Malformed,
        reason: hostile(),
        hint: Some(hostile()),
    };
    let pair = situation.pair();
    pair.verdict.headline = hostile();
    pair.verdict.reasons = vec![hostile()];
    pair.warnings = vec![hostile()];
    pair.leaks[0].headline = hostile();
    pair.comparisons[0].title = hostile();
    pair.comparisons[1].scenario = hostile();
    let record = &mut situation.record;
    record.began = hostile();
    record.machine.processor = Some(hostile());
    record.plan.prompts = vec![hostile()];
    record.plan.scenarios.push(hostile());
    record.plan.pairs[0].gguf.model = hostile();
    record.plan.pairs[0].gguf.command = Some(vec![hostile()]);
    record.tests[0].outcome = Outcome::Failed {
        failure: failure.clone(),
    };
    let test = &mut record.tests[1];
    test.notes = vec![hostile()];
    test.phases[0].name = hostile();
    test.requests[1].failure = Some(failure);
    test.requests[2].group = hostile();
    if let Some(memory) = &mut test.memory {
        memory.holder = Some(hostile());
        memory.unknown = vec![hostile()];
    }
    if let Some(server) = &mut test.server {
        server.version = Some(hostile());
        server.command = Some(vec![hostile()]);
        server.details.insert(hostile(), hostile());
    }
    situation
}

#[rstest]
#[case::clear_win("clear-win", clear_win())]
#[case::contradicting("contradicting", contradicting())]
#[case::leak("leak", leak())]
#[case::one_side_failed("one-side-failed", one_side_failed())]
#[case::interrupted("interrupted", interrupted())]
fn a_report_reads_well(#[case] name: &str, #[case] situation: Situation) {
    snapshots().bind(|| {
        assert_snapshot!(format!("compare_report_{name}.md"), markdown(&situation));
        assert_snapshot!(format!("compare_report_{name}.txt"), text(&situation));
    });
}

/// Words of the page's header and sections, pictures and links left out.
fn words_of_page(page: &str) -> Vec<String> {
    let document = parsed(page);
    let is_left_out = |node: &Node<'_, '_>| {
        let names = ["svg", "nav", "head"];
        node.ancestors()
            .any(|above| names.contains(&above.tag_name().name()) || above.attribute("class") == Some("program"))
    };
    let texts = document
        .descendants()
        .filter(|node| node.is_text() && !is_left_out(node));
    let all: Vec<&str> = texts.filter_map(|node| node.text()).collect();
    words(&all.join("\n"))
}

/// Words of the Markdown, pictures and the lines under a table's head left out.
fn words_of_markdown(page: &str) -> Vec<String> {
    let lines = page
        .lines()
        .filter(|line| !line.starts_with("![") && !line.starts_with("| ---"));
    let text: Vec<&str> = lines.collect();
    words(&text.join("\n").replace("&lt;", "<").replace("&amp;", "&"))
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|character: char| !character.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[rstest]
#[case::clear_win(clear_win())]
#[case::contradicting(contradicting())]
#[case::leak(leak())]
#[case::one_side_failed(one_side_failed())]
#[case::interrupted(interrupted())]
#[case::hostile(hostile())]
fn the_page_and_the_markdown_say_the_same(#[case] situation: Situation) {
    let (page, markdown) = (
        words_of_page(&html(&situation)),
        words_of_markdown(&markdown(&situation)),
    );
    assert!(page.len() > 300, "{page:?}");
    let differs = page.iter().zip(&markdown).position(|(one, other)| one != other);
    let around = |words: &[String]| {
        words[differs.unwrap_or(0).saturating_sub(8)..]
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(page == markdown, "{:?}\n{:?}", around(&page), around(&markdown));
}

#[rstest]
#[case::clear_win(clear_win())]
#[case::one_side_failed(one_side_failed())]
#[case::interrupted(interrupted())]
#[case::hostile(hostile())]
fn the_page_needs_nothing_else_and_is_accessible(#[case] situation: Situation) {
    let page = html(&situation);
    let document = parsed(&page);
    let mut ids = BTreeSet::new();
    let mut level = 0;
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            !["script", "img", "link", "iframe", "object", "base", "form", "use"].contains(&name),
            "{name}"
        );
        for attribute in node.attributes() {
            assert!(
                !attribute.name().starts_with("on") && attribute.name() != "src",
                "{attribute:?}"
            );
            if attribute.name() == "href" {
                assert!(attribute.value().starts_with('#'), "{attribute:?}");
            }
        }
        if let Some(id) = node.attribute("id") {
            assert!(ids.insert(id), "{id} twice");
        }
        if let Some(found) = name.strip_prefix('h').and_then(|digit| digit.parse::<usize>().ok()) {
            assert!(found <= level + 1, "h{found} under h{level}");
            level = found;
        }
        if name == "svg" {
            let label = node.attribute("aria-label").unwrap_or_default();
            assert!(node.attribute("role") == Some("img") && label.len() > 20, "{node:?}");
        }
        if name == "th" {
            assert!(node.attribute("scope").is_some());
        }
    }
    for link in document.descendants().filter_map(|node| node.attribute("href")) {
        assert!(ids.contains(link.trim_start_matches('#')), "{link}");
    }
}

#[test]
fn the_page_has_the_pictures_that_the_markdown_links_to() {
    let situation = clear_win();
    let files = report_files(&situation.record, &situation.samples, &situation.analysis);
    let names: Vec<&str> = files.iter().filter_map(|file| file.path.to_str()).collect();
    assert_eq!(
        names,
        [
            "report.md",
            "report.html",
            "plots/smollm2-135m-first-token.svg",
            "plots/smollm2-135m-context.svg",
            "plots/smollm2-135m-concurrency-concurrency.svg",
            "plots/smollm2-135m-memory-simple-generation.svg",
            "plots/smollm2-135m-memory-context-stress.svg",
            "plots/smollm2-135m-memory-memory-leak.svg",
            "plots/smollm2-135m-memory-concurrency.svg",
            "plots/smollm2-135m-leak.svg",
        ]
    );
    let (markdown, page) = (&files[0].text, &files[1].text);
    let linked: Vec<&str> = markdown
        .lines()
        .filter_map(|line| line.strip_prefix("![")?.rsplit_once("](")?.1.strip_suffix(')'))
        .collect();
    assert_eq!(linked, names[2..]);
    assert_eq!(page.matches("<svg").count(), linked.len());
    assert_eq!(
        (*markdown == self::markdown(&situation), *page == html(&situation)),
        (true, true)
    );
}

/// Markdown without what stands between as many backticks at its beginning as at its end.
fn without_code(markdown: &str) -> String {
    let mut rest = markdown;
    let mut text = String::new();
    while let Some(begin) = rest.find('`') {
        let (before, code) = rest.split_at(begin);
        text.push_str(before);
        let fence = &code[..code.len() - code.trim_start_matches('`').len()];
        let inside = &code[fence.len()..];
        let is_escaped = before.ends_with('\\');
        let end = inside.match_indices(fence).map(|(end, _)| end).find(|&end| {
            let after = &inside[end + fence.len()..];
            !inside[..end].ends_with('`') && !after.starts_with('`')
        });
        rest = match end.filter(|_| !is_escaped) {
            Some(end) => &inside[end + fence.len()..],
            None => inside,
        };
    }
    text + rest
}

#[test]
fn text_of_others_steers_neither_the_page_nor_the_terminal() {
    let situation = hostile();
    let (page, markdown, text) = (html(&situation), markdown(&situation), text(&situation));
    let document = parsed(&page);
    assert!(!document.descendants().any(|node| node.has_tag_name("script")));
    for written in [&page, &markdown, &text] {
        let steers = |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
        assert!(!written.contains(steers));
    }
    assert!(!without_code(&markdown).contains("<script"));
    // A hostile cell does not end its row: all rows of a table have as many bars as its head.
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    let lines: Vec<&str> = markdown.lines().collect();
    for pair in lines
        .windows(2)
        .filter(|pair| pair.iter().all(|line| line.starts_with('|')))
    {
        assert_eq!(bars(pair[0]), bars(pair[1]), "{}\n{}", pair[0], pair[1]);
    }
    // No line of the terminal begins with what others chose, but for the heading of a pair.
    assert!(text.lines().filter(|line| line.starts_with("</style>")).count() <= 1);
}

#[test]
fn a_report_opens_with_the_verdict_its_confidence_and_leaks() {
    let markdown = markdown(&leak());
    let place = |words: &str| markdown.find(words).unwrap_or_else(|| panic!("no {words}"));
    let order = [
        "# GGUF against MLX",
        "**GGUF**: MLX leaks",
        "Confidence: medium",
        "- MLX leaks",
        "**leak**: MLX: memory leaks",
        "## Not measured",
        "## Comparison",
        "## Memory",
        "## Plan",
        "## Servers",
        "## Machine",
        "## Definitions",
    ];
    assert!(order.map(place).is_sorted());
}

#[test]
fn what_is_lacking_is_said_instead_of_drawn() {
    let situation = interrupted();
    let markdown = markdown(&situation);
    for sentence in [
        "The user ended it after 0 tests",
        "Time to first token is not drawn",
        "Memory over time is not drawn",
        "Memory by request is not drawn",
        "Speed by length of the prompt is not drawn",
        "Speed against requests at one time is not drawn",
        "No test was begun",
        "No server came up",
    ] {
        assert!(markdown.contains(sentence), "{sentence}\n{markdown}");
    }
    let files = report_files(&situation.record, &situation.samples, &situation.analysis);
    assert_eq!(files.len(), 2);
}

#[test]
fn failed_requests_are_counted_with_their_reason() {
    let mut situation = clear_win();
    for request in &mut situation.record.tests[0].requests[2..5] {
        request.failure = Some(Failure {
            kind: FailureKind::Stalled,
            reason: "no piece came for 60 s".to_owned(),
            hint: None,
        });
    }
    let markdown = markdown(&situation);
    assert!(
        markdown.contains("round 1: 3 requests, stalled: no piece came for 60 s"),
        "{markdown}"
    );
    assert!(markdown.contains("| 6 of 9 |"), "{markdown}");
    let text = text(&situation);
    assert!(
        text.contains("GGUF, simple-generation: 3 requests: stalled: no piece came for 60 s"),
        "{text}"
    );
}

#[test]
fn values_of_variables_are_not_told() {
    let situation = clear_win();
    let markdown = markdown(&situation);
    assert!(markdown.contains("`MLX_CACHE`") && !markdown.contains("secret"));
}

#[test]
fn servers_that_differ_only_by_their_port_are_one() {
    let markdown = markdown(&clear_win());
    let rows = markdown.lines().filter(|line| line.contains("--port PORT")).count();
    // Two formats, each with the ordinary context and the long one.
    assert_eq!(rows, 4, "{markdown}");
    assert!(!markdown.contains("4100"), "{markdown}");
}
