//! The report as a page: one file that needs nothing else, that a strict parser reads, and that no text can steer.

use crate::diagnosis::rules::snapshots;
use crate::support::situations::*;
use insta::assert_snapshot;
use mlx_diagnose::evidence::{
    Evidence, FineTuneKind, ModuleUpdate, ProbeCost, Slot, StepRecord, TensorChange, ValidationLoss,
};
use mlx_diagnose::regression::compare;
use mlx_diagnose::report::{Report, to_html};
use mlx_diagnose::rules::RULES;
use roxmltree::{Document, Node, ParsingOptions};
use rstest::rstest;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn page(evidence: &Evidence) -> String {
    to_html(&Report::new(evidence, vec![PathBuf::from("out/report.html")]))
}

fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}\n{page}"))
}

fn text_of(node: Node<'_, '_>) -> String {
    node.descendants()
        .filter_map(|node| node.text().filter(|_| node.is_text()))
        .collect()
}

fn with_class<'a, 'input>(
    document: &'a Document<'input>,
    class: &'a str,
) -> impl Iterator<Item = Node<'a, 'input>> + 'a {
    document.descendants().filter(move |node| {
        let classes = node.attribute("class").unwrap_or_default();
        classes.split(' ').any(|found| found == class)
    })
}

/// Elements of the class outside of legends.
fn drawn(document: &Document<'_>, class: &str) -> usize {
    with_class(document, class)
        .filter(|node| !node.ancestors().any(|above| above.attribute("aria-hidden").is_some()))
        .count()
}

fn step(number: usize, loss: Option<f64>, gradient_norm: Option<f64>) -> StepRecord {
    let template = training(&mut healthy()).steps[0].clone();
    StepRecord {
        step: number,
        loss,
        gradient_norm,
        ..template
    }
}

fn with_steps(steps: Vec<StepRecord>) -> Evidence {
    changed(|evidence| training(evidence).steps = steps)
}

fn with_updates(layers: usize, updates: Vec<(String, Option<f64>)>) -> Evidence {
    changed(|evidence| {
        model(evidence).layers = layers;
        let updates = updates.into_iter().map(|(module, relative)| ModuleUpdate {
            module,
            relative,
            quantization_steps: None,
        });
        adapter(evidence).updates = updates.collect();
    })
}

fn with_everything() -> Evidence {
    changed(|evidence| {
        evidence.costs = vec![ProbeCost {
            probe: "loss-check".to_owned(),
            seconds: 0.4,
        }];
        fit(evidence).validation_before = Some(3.1);
        fit(evidence).validation_between = vec![ValidationLoss {
            updates: 3,
            loss: Some(2.4),
        }];
        fit(evidence).validation_after = Some(2.2);
    })
}

fn checks_only() -> Evidence {
    changed(|evidence| {
        evidence.settings.check_only = true;
        let why = "only the inputs were checked";
        evidence.baseline = Slot::skipped(why);
        evidence.training = Slot::skipped(why);
        evidence.fit = Slot::skipped(why);
        evidence.parameters = Slot::skipped(why);
        evidence.generation = Slot::skipped(why);
        evidence.state = Slot::skipped(why);
    })
}

fn all_weights() -> Evidence {
    changed(|evidence| {
        evidence.settings.fine_tune = FineTuneKind::Full;
        let tensor = |name: &str, norm_before, norm_difference| TensorChange {
            name: name.to_owned(),
            values: 10,
            changed_values: 10,
            norm_before,
            norm_after: Some(norm_before),
            norm_difference,
        };
        parameters(evidence).adapter = None;
        parameters(evidence).changes = vec![
            tensor("model.embed_tokens.weight", 4.0, Some(0.04)),
            tensor("model.layers.0.mlp.up_proj.weight", 2.0, Some(0.02)),
            tensor("model.layers.1.mlp.up_proj.bias", 0.0, Some(0.02)),
            tensor("model.layers.1.mlp.up_proj.weight", 2.0, None),
        ];
    })
}

#[test]
fn a_page_reads_well() {
    snapshots().bind(|| assert_snapshot!("report_learning-rate-one.html", page(&learning_rate_one())));
    snapshots().bind(|| assert_snapshot!("report_gradients-kept.html", page(&gradients_kept())));
}

#[rstest]
#[case::healthy(healthy())]
#[case::with_everything(with_everything())]
#[case::stub_adapter(stub_adapter())]
#[case::frozen_optimizer(frozen_optimizer())]
#[case::eos_only_labels(eos_only_labels())]
#[case::learning_rate_one(learning_rate_one())]
#[case::interrupted(interrupted_in_training())]
#[case::all_weights(all_weights())]
#[case::checks_only(checks_only())]
#[case::no_step(with_steps(Vec::new()))]
#[case::swapped_generator(swapped_generator())]
fn a_page_is_whole_in_itself_and_says_everything_that_was_found(#[case] evidence: Evidence) {
    let page = page(&evidence);
    let document = parsed(&page);
    let report = Report::new(&evidence, Vec::new());
    assert_needs_nothing_else(&document);
    assert_is_accessible(&document);
    let text = text_of(document.root_element());
    assert!(text.contains(&report.headline.replace('`', "")), "{}", report.headline);
    for finding in &report.findings {
        assert!(text.contains(finding.name), "{}", finding.name);
    }
    for check in &report.checks {
        assert!(text.contains(check.name), "{}", check.name);
    }
    for root in report.roots() {
        assert!(
            text.contains(&format!("diagnose explain {}", root.name)),
            "{}",
            root.name
        );
        for command in root.fixes.iter().filter_map(|fix| fix.command.as_ref()) {
            let blocks = with_class(&document, "command").map(text_of).collect::<Vec<_>>();
            assert!(blocks.contains(command), "{command} is not in {blocks:?}");
        }
    }
}

fn assert_needs_nothing_else(document: &Document<'_>) {
    const INERT: &[&str] = &[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "div",
        "span",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "a",
        "code",
        "pre",
        "br",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "figure",
        "figcaption",
        "svg",
        "g",
        "path",
        "rect",
        "circle",
        "text",
        "desc",
    ];
    let references: BTreeSet<&str> = RULES.iter().flat_map(|rule| rule.references()).collect();
    let ids: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), distinct.len(), "{ids:?}");
    for node in document.descendants().filter(Node::is_element) {
        assert!(INERT.contains(&node.tag_name().name()), "{:?}", node.tag_name());
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!name.starts_with("on") && name != "src", "{name}");
            match value.strip_prefix('#') {
                Some(id) if name == "href" => assert!(distinct.contains(id), "{id}"),
                _ if name == "href" => assert!(references.contains(value), "{value}"),
                _ => assert!(!value.contains("//"), "{value}"),
            }
        }
    }
    let style = text_of(document.descendants().find(|node| node.has_tag_name("style")).unwrap());
    assert!(
        !style.contains("url(") && !style.contains('@') || !style.contains("@import"),
        "{style}"
    );
    let policy = document
        .descendants()
        .find(|node| node.attribute("http-equiv") == Some("Content-Security-Policy"))
        .and_then(|node| node.attribute("content"));
    assert!(
        policy.is_some_and(|policy| policy.starts_with("default-src 'none';")),
        "{policy:?}"
    );
}

fn assert_is_accessible(document: &Document<'_>) {
    assert_eq!(document.root_element().attribute("lang"), Some("en"));
    let mut level = 0;
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        if let Some(found) = name.strip_prefix('h').and_then(|digit| digit.parse::<usize>().ok()) {
            assert!(found <= level + 1, "h{found} under h{level}: {}", text_of(node));
            level = found;
        }
        if name == "svg" {
            let is_named = node.attribute("aria-label").is_some() || node.attribute("aria-labelledby").is_some();
            let is_picture = node.attribute("role") == Some("img") && is_named;
            assert!(is_picture || node.attribute("aria-hidden") == Some("true"), "{node:?}");
        }
        for id in node.attribute("aria-labelledby").unwrap_or_default().split_whitespace() {
            assert!(
                document.descendants().any(|named| named.attribute("id") == Some(id)),
                "{id}"
            );
        }
        if name == "th" {
            assert!(node.attribute("scope").is_some(), "{node:?}");
        }
    }
}

#[test]
fn no_text_becomes_markup_or_steers_the_page() {
    const HOSTILE: &str = "</style></title><script>alert(\"1\")</script>'&amp; \u{1b}[31m\u{7}\u{0}\u{202e}\u{2066}\u{fffe}\r\n--> ]]> `x`";
    let evidence = changed(|evidence| {
        evidence.settings.model = HOSTILE.to_owned();
        evidence.settings.data = HOSTILE.to_owned();
        evidence.environment.device = HOSTILE.to_owned();
        evidence.environment.tool_version = HOSTILE.to_owned();
        evidence.environment.reasons = vec![HOSTILE.to_owned()];
        evidence.state = Slot::crashed(HOSTILE);
        evidence.costs = vec![ProbeCost {
            probe: HOSTILE.to_owned(),
            seconds: 1.0,
        }];
        data(evidence).rows_only_stop_tokens = (0..12).map(|_| HOSTILE).collect();
        data(evidence).rows_without_supervision = names([HOSTILE]);
        model(evidence).stop_tokens[0].text = HOSTILE.to_owned();
        parameters(evidence).changed_base = names([HOSTILE]);
        adapter(evidence).updates[0].module = format!("model.layers.0.{HOSTILE}");
        adapter(evidence).updates[1].module = HOSTILE.to_owned();
        for (index, answer) in generation(evidence).answers.iter_mut().enumerate() {
            answer.prompt = HOSTILE.to_owned();
            answer.text = if index == 0 { String::new() } else { HOSTILE.to_owned() };
            answer.free_run.text = format!("free {HOSTILE}");
        }
    });
    let mut stored = evidence.clone();
    stored.interrupted = None;
    data(&mut stored).largest_id += 1;
    let comparison = compare(&stored, &evidence).unwrap();
    let report = Report::new(&evidence, vec![PathBuf::from(HOSTILE)]).against(comparison);
    let page = to_html(&report);
    let document = parsed(&page);
    assert_needs_nothing_else(&document);
    let shown = text_of(document.root_element());
    assert!(shown.contains("<script>alert(\"1\")</script>'&amp;"), "{shown}");
    for character in page.chars() {
        let is_break = matches!(character, '\n' | '\t');
        assert!(is_break || !character.is_control(), "{character:?}");
        assert!(!"\u{202e}\u{2066}\u{fffe}".contains(character), "{character:?}");
    }
}

#[test]
fn steps_that_are_not_finite_are_marked_and_break_the_curve() {
    let losses = [Some(3.0), Some(2.5), None, Some(2.4), None];
    let steps = losses.into_iter().enumerate();
    let evidence = with_steps(steps.map(|(index, loss)| step(index + 1, loss, Some(1.0))).collect());
    let page = page(&evidence);
    let document = parsed(&page);
    // A cross and a thread for each step.
    assert_eq!(drawn(&document, "broken"), 4);
    assert!(page.contains("<title>step 3: loss not finite</title>"));
    assert!(page.contains("2 steps not finite"));
    let line = with_class(&document, "line")
        .next()
        .and_then(|node| node.attribute("d"));
    assert_eq!(line.unwrap().matches('M').count(), 2);
}

#[test]
fn validation_losses_are_points_between_the_steps() {
    let page = page(&with_everything());
    let document = parsed(&page);
    // Three points and the thread through them.
    assert_eq!(drawn(&document, "validation"), 4);
    assert!(page.contains("<title>validation rows after 3 updates: 2.400</title>"));
    assert!(page.contains("Validation rows: 3.100 before, 2.200 after."));
}

#[test]
fn a_uniform_guess_is_drawn_where_it_fits() {
    let near = page(&learning_rate_one());
    assert_eq!(drawn(&parsed(&near), "guess"), 1);
    let far = page(&healthy());
    assert_eq!(drawn(&parsed(&far), "guess"), 0);
    assert!(far.contains("beyond the picture"));
}

#[rstest]
#[case::one_step(vec![step(1, Some(2.0), Some(1.0))])]
#[case::one_step_without_a_number(vec![step(1, None, None)])]
#[case::nothing_but_zero(vec![step(1, Some(0.0), Some(0.0)), step(2, Some(0.0), Some(0.0))])]
#[case::the_largest_and_the_smallest(vec![step(1, Some(f64::MAX), Some(f64::MAX)), step(2, Some(5e-324), Some(5e-324))])]
#[case::below_zero(vec![step(1, Some(-1e308), Some(-3.0)), step(2, Some(1e308), Some(1e-300))])]
#[case::steps_out_of_order(vec![step(9, Some(1.0), Some(1.0)), step(2, Some(2.0), Some(0.0)), step(2, None, Some(900.0))])]
#[case::a_step_beyond_all(vec![step(usize::MAX, Some(1.0), Some(1.0)), step(0, Some(2.0), Some(2.0))])]
#[case::thousands(
    (1..=5000).map(|number| step(number, Some(1.0 + 1.0 / number as f64), Some(number as f64))).collect()
)]
fn every_series_can_be_drawn(#[case] steps: Vec<StepRecord>) {
    let page = page(&with_steps(steps));
    let document = parsed(&page);
    for node in document.descendants().filter(Node::is_element) {
        for attribute in node
            .attributes()
            .filter(|attribute| ["d", "x", "y", "cx", "cy"].contains(&attribute.name()))
        {
            let value = attribute.value();
            assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
            let numbers = value.split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '-');
            for number in numbers.filter(|number| !number.is_empty()) {
                let number: f64 = number.parse().unwrap_or_else(|error| panic!("{error}: {value}"));
                assert!(number.abs() < 1000.0, "{value}");
            }
        }
    }
    assert!(page.len() < 600_000, "{}", page.len());
}

#[test]
fn a_cell_that_was_not_trained_and_one_that_did_not_move_are_told_apart_without_colour() {
    let modules = [
        ("model.layers.0.self_attn.q_proj", Some(0.02)),
        ("model.layers.0.mlp.up_proj", Some(0.0)),
        ("model.layers.2.self_attn.q_proj", Some(1e-7)),
        ("model.layers.2.mlp.up_proj", None),
        ("lm_head", Some(0.5)),
    ];
    let updates = modules.map(|(module, ratio)| (module.to_owned(), ratio)).to_vec();
    let page = page(&with_updates(4, updates));
    let document = parsed(&page);
    // Layers 1 and 3 were not trained, and both have two cells.
    assert_eq!(drawn(&document, "absent"), 4);
    assert_eq!(drawn(&document, "hollow"), 2);
    for words in [
        "<title>layer 0, mlp.up_proj: 0, exactly</title>",
        "<title>layer 2, mlp.up_proj: no ratio</title>",
        "<title>layer 2, self_attn.q_proj: 1.0e-7</title>",
        "<title>layer 3, mlp.up_proj: not trained</title>",
        "not trained</li>",
        "exactly zero</li>",
        "≤ 1e-4",
        "1 weight outside of the layers",
    ] {
        assert!(page.contains(words), "{words}\n{page}");
    }
}

#[test]
fn two_hundred_layers_are_drawn_in_panels_beside_each_other() {
    let names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"];
    let updates = (0..200).flat_map(|layer| {
        names.map(|name| {
            (
                format!("model.layers.{layer}.{name}"),
                Some(1e-3 * f64::from(layer + 1)),
            )
        })
    });
    let page = page(&with_updates(200, updates.collect()));
    let document = parsed(&page);
    let panels: Vec<_> = document
        .descendants()
        .filter(|node| {
            node.attribute("aria-label")
                .is_some_and(|label| label.starts_with("Updates of layers"))
        })
        .collect();
    assert_eq!(panels.len(), 4);
    let cells = panels
        .iter()
        .flat_map(Node::descendants)
        .filter(|node| node.has_tag_name("g"));
    assert_eq!(cells.count(), 800);
    for panel in panels {
        let height: usize = panel.attribute("height").unwrap().parse().unwrap();
        assert!(height < 1000, "{height}");
    }
}

#[test]
fn a_layer_beyond_every_model_is_listed_and_not_drawn() {
    let updates = vec![
        ("model.layers.0.mlp.up_proj".to_owned(), Some(0.1)),
        (format!("model.layers.{}.mlp.up_proj", usize::MAX), Some(0.1)),
    ];
    let page = page(&with_updates(usize::MAX, updates));
    assert!(page.contains("1 weight outside of the layers"));
    assert!(page.len() < 500_000, "{}", page.len());
}

#[test]
fn where_all_weights_were_trained_their_own_changes_are_drawn() {
    let page = page(&all_weights());
    for words in [
        "What training changed in each weight",
        "<title>layer 0, mlp.up_proj: 0.010</title>",
        "<title>layer 1, mlp.up_proj: no ratio</title>",
        "<title>layer 1, mlp.up_proj.bias: no ratio</title>",
        "<code>model.embed_tokens</code>",
    ] {
        assert!(page.contains(words), "{words}\n{page}");
    }
}

#[test]
fn an_answer_that_training_left_alone_is_called_the_same() {
    let page = page(&frozen_optimizer());
    let answers = generation(&mut frozen_optimizer()).answers.len();
    assert_eq!(page.matches("same text as before").count(), answers);
}

#[test]
fn every_trainer_with_every_generator_is_a_cell_that_works_or_does_not() {
    let page = page(&swapped_generator());
    let document = parsed(&page);
    let table = document
        .descendants()
        .find(|node| node.attribute("aria-label") == Some("Two by two"))
        .expect("the two-by-two");
    let rows: Vec<Vec<String>> = table
        .descendants()
        .filter(|node| node.has_tag_name("tr"))
        .map(|row| row.children().filter(Node::is_element).map(text_of).collect())
        .collect();
    // Their generator leaves the adapter out, whoever trained it.
    assert_eq!(rows[0], ["trained by", "this engine", "their generator"]);
    assert_eq!(rows[1], ["theirs", "✓ works", "✕ answers as the base does"]);
    assert_eq!(rows[2], ["reference", "✓ works", "✕ answers as the base does"]);
    assert_eq!(rows.len(), 3);
    for beside in ["median update", "2.3e-2", "1.3e-2"] {
        assert!(text_of(document.root_element()).contains(beside), "{beside}");
    }
}
