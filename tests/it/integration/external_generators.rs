//! Other programs that answer: scripts and servers that stand in for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use mlx_diagnose::evidence::{
    CellAnswer, CellState, Evidence, GenerationEvidence, Party, Side, Slot, SwapCell, SwapEvidence, alike,
};
use mlx_diagnose::external::{ExternalGenerator, GeneratorError, Question, Reply};
use mlx_diagnose::interrupt::Interrupt;
use rstest::rstest;

use crate::support::golden::root;

fn generator(name: &str) -> ExternalGenerator {
    ExternalGenerator {
        name: name.to_owned(),
        served_model: None,
        timeout: Duration::from_secs(20),
    }
}

fn asked(generator: &ExternalGenerator, prompt: &str) -> Result<Reply, GeneratorError> {
    generator.answer(
        &Question {
            model: Path::new("/a model"),
            adapter: Some(Path::new("/an adapter")),
            prompt,
            max_tokens: 24,
        },
        &Interrupt::default(),
        &mut |_| {},
    )
}

#[test]
fn a_command_gets_every_value_as_one_word_and_its_standard_output_is_the_answer() {
    let command = "echo 'loading' >&2; printf '%s|' {model} {adapter} {prompt} {max_tokens}";
    let reply = asked(&generator(command), "it's \"so\"\n$HOME").unwrap();
    assert_eq!(reply.text, "/a model|/an adapter|it's \"so\"\n$HOME|24|");
    assert_eq!(reply.ended, None);
}

#[rstest]
#[case::it_fails("echo 'out of memory' >&2; exit 3", "exit code 3", "out of memory")]
#[case::it_is_not_there("no-such-generator {prompt}", "exit code 127", "not found")]
#[case::it_prints_no_text("printf '\\377\\376'", "not UTF-8", "")]
fn a_command_that_gives_no_answer_says_why(#[case] command: &str, #[case] headline: &str, #[case] last_line: &str) {
    let error = asked(&generator(command), "Hello").unwrap_err().to_string();
    assert!(error.contains(headline) && error.contains(last_line), "{error}");
}

#[test]
fn a_command_that_hangs_is_stopped() {
    let begun = Instant::now();
    let mut generator = generator("echo begun >&2; sleep 60");
    generator.timeout = Duration::from_millis(400);
    let error = asked(&generator, "Hello").unwrap_err();
    assert!(matches!(error, GeneratorError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("begun"));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_unknown_placeholder_is_refused_before_anything_runs() {
    let error = generator("answer {promt}").check(true).unwrap_err().to_string();
    assert!(error.contains("did you mean `{prompt}`"), "{error}");
    assert!(
        error.contains("`{adapter}`, `{max_tokens}`, `{model}`, `{prompt}`"),
        "{error}"
    );
}

#[test]
fn a_whole_model_has_no_adapter_to_name() {
    let error = generator("answer {adapter}").check(false).unwrap_err().to_string();
    assert!(error.contains("no placeholder `{adapter}`"), "{error}");
    assert_eq!(generator("answer {model} {prompt}").check(false), Ok(()));
    assert_eq!(generator("mlx-lm").check(false), Ok(()));
}

/// A server that answers one request with `body`; returns its address and, at the end, the request.
fn server(status: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let request = request(&stream);
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        request
    });
    (address, serving)
}

fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    format!("{head}{}", String::from_utf8(body).unwrap())
}

#[test]
fn a_server_is_asked_as_openai_s_api_says() {
    let (address, serving) = server(
        "200 OK",
        r#"{"choices": [{"message": {"role": "assistant", "content": " Lima. "}, "finish_reason": "stop"}]}"#,
    );
    let reply = asked(&generator(&address), "What is the capital of Peru?").unwrap();
    assert_eq!((reply.text.as_str(), reply.ended), ("Lima.", Some(true)));
    let request = serving.join().unwrap();
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1"), "{request}");
    let body: serde_json::Value = serde_json::from_str(request.rsplit("\r\n").next().unwrap()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "messages": [{ "role": "user", "content": "What is the capital of Peru?" }],
            "max_tokens": 24,
            "temperature": 0,
            "stream": false,
        })
    );
}

#[rstest]
#[case::cut(
    r#"{"choices": [{"message": {"content": "Li"}, "finish_reason": "length"}]}"#,
    "Li",
    Some(false)
)]
#[case::empty(
    r#"{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}"#,
    "",
    Some(true)
)]
#[case::untold(r#"{"choices": [{"message": {"content": "Lima"}}]}"#, "Lima", None)]
fn a_server_s_answer_says_how_it_ended(#[case] body: &'static str, #[case] text: &str, #[case] ended: Option<bool>) {
    let (address, _) = server("200 OK", body);
    let reply = asked(&generator(&address), "Hello").unwrap();
    assert_eq!((reply.text.as_str(), reply.ended), (text, ended));
}

#[rstest]
#[case::another_language("200 OK", "<html>It works!</html>", "<html>It works!</html>")]
#[case::another_object("200 OK", r#"{"answer": "Lima"}"#, "choices[0].message.content")]
#[case::refused("404 Not Found", r#"{"error": "model not found"}"#, "status 404")]
fn a_server_that_gives_no_answer_says_why(
    #[case] status: &'static str,
    #[case] body: &'static str,
    #[case] expected: &str,
) {
    let (address, _) = server(status, body);
    let error = asked(&generator(&address), "Hello").unwrap_err().to_string();
    assert!(error.contains(expected) && error.contains(&address), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_a_hint() {
    // Bound and dropped, so that nobody listens there.
    let address = format!(
        "http://{}",
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    );
    let error = asked(&generator(&address), "Hello").unwrap_err().to_string();
    assert!(
        error.contains(&address) && error.contains("hint: start the server"),
        "{error}"
    );
}

#[test]
fn the_user_s_wish_ends_a_call_that_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let generator = generator(&format!("http://{}", listener.local_addr().unwrap()));
    let interrupt = Interrupt::default();
    interrupt.request();
    let question = Question {
        model: Path::new("model"),
        adapter: Some(Path::new("adapter")),
        prompt: "Hello",
        max_tokens: 1,
    };
    let error = generator.answer(&question, &interrupt, &mut |_| {}).unwrap_err();
    assert!(matches!(error, GeneratorError::Interrupted), "{error}");
}

fn healthy() -> (GenerationEvidence, Vec<CellAnswer>) {
    let path = root().join("fixtures/evidence/healthy.json");
    let evidence: Evidence = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tuned = evidence
        .generation
        .ran()
        .unwrap()
        .answers
        .iter()
        .map(CellAnswer::from)
        .collect();
    (evidence.baseline.ran().unwrap().clone(), tuned)
}

/// A two-by-two; `false` is a cell that answers as the base does.
fn side_of(cells: [[Option<bool>; 2]; 2]) -> Option<Side> {
    let (base, tuned) = healthy();
    let like_base: Vec<CellAnswer> = base.answers.iter().map(CellAnswer::from).collect();
    let mut swap = SwapEvidence {
        cells: Vec::new(),
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("not needed here"),
    };
    for (row, trainer) in cells.into_iter().zip([Party::Theirs, Party::Reference]) {
        for (works, generator) in row.into_iter().zip([Party::Reference, Party::Theirs]) {
            let Some(works) = works else { continue };
            let answers = Slot::Ran(if works { tuned.clone() } else { like_base.clone() });
            swap.cells.push(SwapCell {
                trainer,
                generator,
                answers,
            });
        }
    }
    swap.side(&base)
}

#[rstest]
#[case::all_work([[Some(true), Some(true)], [Some(true), Some(true)]], Some(Side::Neither))]
#[case::their_training([[Some(false), Some(false)], [Some(true), Some(true)]], Some(Side::Training))]
#[case::their_generation([[Some(true), Some(false)], [Some(true), Some(false)]], Some(Side::Generation))]
#[case::each_by_itself([[Some(false), Some(false)], [Some(true), Some(false)]], Some(Side::Both))]
#[case::only_together([[Some(true), Some(false)], [Some(true), Some(true)]], Some(Side::Together))]
#[case::neither_learnt_anything([[Some(false), Some(false)], [Some(false), Some(false)]], Some(Side::Unknown))]
#[case::the_reference_learnt_nothing([[Some(true), Some(true)], [Some(false), Some(false)]], Some(Side::Unknown))]
#[case::only_another_trainer([[Some(false), None], [Some(true), None]], Some(Side::Training))]
#[case::only_another_generator([[None, None], [Some(true), Some(false)]], Some(Side::Generation))]
#[case::a_finished_adapter([[Some(true), Some(false)], [None, None]], Some(Side::Generation))]
#[case::a_finished_adapter_and_nothing_wrong([[Some(true), Some(true)], [None, None]], Some(Side::Neither))]
fn the_cells_name_the_side(#[case] cells: [[Option<bool>; 2]; 2], #[case] side: Option<Side>) {
    assert_eq!(side_of(cells), side);
}

#[test]
fn a_training_that_made_the_references_much_less_likely_learnt_less() {
    let (base, tuned) = healthy();
    let mut weak = tuned.clone();
    for (answer, base) in weak.iter_mut().zip(&base.answers) {
        // A twentieth of the way from the base to the reference.
        let (from, to) = (base.reference_nll.unwrap(), answer.reference_nll.unwrap());
        answer.reference_nll = Some(from + 0.05 * (to - from));
    }
    let cell = |trainer, answers| SwapCell {
        trainer,
        generator: Party::Reference,
        answers: Slot::Ran(answers),
    };
    let swap = SwapEvidence {
        cells: vec![cell(Party::Theirs, weak), cell(Party::Reference, tuned)],
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("not needed here"),
    };
    assert_eq!(swap.state(&swap.cells[0], &base), CellState::LearntLess);
    assert_eq!(swap.side(&base), Some(Side::Training));
}

#[test]
fn a_generator_is_not_blamed_alone_where_the_trainer_left_nothing() {
    let (base, tuned) = healthy();
    let like_base: Vec<CellAnswer> = base.answers.iter().map(CellAnswer::from).collect();
    let cell = |trainer, generator, answers| SwapCell {
        trainer,
        generator,
        answers,
    };
    let nothing = || Slot::skipped("the trainer failed");
    let swap = SwapEvidence {
        cells: vec![
            cell(Party::Theirs, Party::Reference, nothing()),
            cell(Party::Theirs, Party::Theirs, nothing()),
            cell(Party::Reference, Party::Reference, Slot::Ran(tuned)),
            cell(Party::Reference, Party::Theirs, Slot::Ran(like_base)),
        ],
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("not needed here"),
    };
    assert_eq!(swap.side(&base), None);
}

#[rstest]
#[case("the same", "the  same\n", 1.0)]
#[case("", "", 1.0)]
#[case("abcd", "abxy", 0.5)]
#[case("abcd", "", 0.0)]
#[case("ab", "abcdefgh", 0.25)]
fn texts_are_alike_as_far_as_they_begin_alike(#[case] left: &str, #[case] right: &str, #[case] expected: f64) {
    approx::assert_relative_eq!(alike(left, right), expected);
    approx::assert_relative_eq!(alike(right, left), expected);
}

#[test]
fn a_generator_that_gave_no_answer_is_on_no_side() {
    let (base, tuned) = healthy();
    let cell = |generator, answers| SwapCell {
        trainer: Party::Theirs,
        generator,
        answers,
    };
    let swap = SwapEvidence {
        cells: vec![
            cell(Party::Reference, Slot::Ran(tuned)),
            cell(Party::Theirs, Slot::crashed("it is not there")),
        ],
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("a finished adapter is judged"),
    };
    assert_eq!(swap.side(&base), None);
}

/// The engine's answers with an adapter, and a generator that gives these texts.
fn answered_with(tuned: &[CellAnswer], texts: &[String]) -> (Vec<String>, SwapEvidence) {
    let with_text = |(answer, text): (&CellAnswer, &String)| CellAnswer {
        text: text.clone(),
        ..answer.clone()
    };
    let theirs = tuned.iter().zip(texts).map(with_text).collect();
    let cell = |generator, answers| SwapCell {
        trainer: Party::Reference,
        generator,
        answers: Slot::Ran(answers),
    };
    let swap = SwapEvidence {
        cells: vec![cell(Party::Theirs, theirs), cell(Party::Reference, tuned.to_vec())],
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("the reference is the trainer of this run"),
    };
    (tuned.iter().map(|answer| answer.text.clone()).collect(), swap)
}

#[test]
fn an_empty_answer_is_no_way_of_asking() {
    let (base, tuned) = healthy();
    let nothing = vec![String::new(); tuned.len()];
    let (expected, swap) = answered_with(&tuned, &nothing);
    let count = swap.read_as(Party::Reference, &expected, &nothing).unwrap();
    assert_eq!((count.telling, count.agreeing), (expected.len(), 0));
    assert_eq!(swap.state(&swap.cells[0], &base), CellState::Empty);
}

#[test]
fn empty_answers_count_beside_one_with_text_that_was_asked_in_that_way() {
    let (_, tuned) = healthy();
    let mut read = vec![String::new(); tuned.len()];
    read[0] = "a sentence that nobody taught it".to_owned();
    let (expected, swap) = answered_with(&tuned, &read);
    let count = swap.read_as(Party::Reference, &expected, &read).unwrap();
    assert_eq!((count.telling, count.agreeing), (expected.len(), expected.len()));
}

#[test]
fn a_slower_optimizer_is_no_fault_though_the_words_are_still_the_base_s() {
    let (base, tuned) = healthy();
    let mut slower: Vec<CellAnswer> = base.answers.iter().map(CellAnswer::from).collect();
    for (answer, tuned) in slower.iter_mut().zip(&tuned) {
        let (from, to) = (answer.reference_nll.unwrap(), tuned.reference_nll.unwrap());
        answer.reference_nll = Some(from + 0.4 * (to - from));
    }
    let cell = |trainer, answers| SwapCell {
        trainer,
        generator: Party::Reference,
        answers: Slot::Ran(answers),
    };
    let swap = SwapEvidence {
        cells: vec![cell(Party::Theirs, slower), cell(Party::Reference, tuned)],
        readings: Vec::new(),
        repeatable: None,
        reference: Slot::skipped("not needed here"),
    };
    assert_eq!(swap.state(&swap.cells[0], &base), CellState::Works);
}
