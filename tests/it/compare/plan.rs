//! Configurations of comparisons: every mistake with its line, defaults, and the example.

use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use mlx_diagnose::compare::scenarios::names;
use mlx_diagnose::compare::{ConfigurationError, ConfiguredPlan, Format, Plan, ServerKind};

const LEAST: &str = "\
pairs:
  - name: small
    gguf: {server: llama-server, model: model.gguf}
    mlx: {server: diagnose, model: ./folder}
";

fn parse(text: &str) -> ConfiguredPlan {
    ConfiguredPlan::parse(text, Path::new("/configurations")).unwrap()
}

fn refused(text: &str) -> String {
    ConfiguredPlan::parse(text, Path::new("/configurations"))
        .unwrap_err()
        .to_string()
}

#[test]
fn the_least_configuration_has_defaults_for_everything_else() {
    let configured = parse(LEAST);
    assert_eq!(configured.output, None);
    assert_eq!(configured.plan, Plan::with_defaults(configured.plan.pairs.clone()));
    let pair = &configured.plan.pairs[0];
    assert_eq!(
        (pair.gguf.server, pair.mlx.server),
        (ServerKind::LlamaServer, ServerKind::Diagnose)
    );
    assert_eq!(configured.plan.check(), Ok(()));
}

#[test]
fn every_key_is_read() {
    let text = r#"
pairs:
  - name: pair
    gguf:
      server: llama-server
      model: model.gguf
      command: [llama-server, -m, "{model}"]
      environment: {THREADS: 2, QUIET: true}
    mlx:
      server: open-ai
      model: key
      address: https://example.org/v1
      api-key-variable: KEY
    tokenizer: tokenizer
    mixture: true
scenarios: [quality, cold-start]
rounds: 3
repeats: 4
warm-ups: 0
answer-tokens: 5
prompts: [one, two]
context-tokens: 700
leak-requests: 80
concurrency: [2, 16]
request-rate: 0.5
limits: {load: 1, request: 20.5, stall: 3, test: 40}
memory-interval: 50
seed: 12
output: out
"#;
    let ConfiguredPlan { plan, output, .. } = parse(text);
    let pair = &plan.pairs[0];
    assert_eq!(pair.gguf.model, "/configurations/model.gguf");
    assert_eq!(pair.gguf.command.as_deref().unwrap(), ["llama-server", "-m", "{model}"]);
    assert_eq!(pair.gguf.environment.get("THREADS").map(String::as_str), Some("2"));
    assert_eq!(pair.gguf.environment.get("QUIET").map(String::as_str), Some("true"));
    assert_eq!(pair.mlx.address.as_deref(), Some("https://example.org/v1"));
    assert_eq!(pair.mlx.api_key_variable.as_deref(), Some("KEY"));
    assert_eq!(pair.tokenizer.as_deref(), Some(Path::new("/configurations/tokenizer")));
    assert_eq!(pair.mixture, Some(true));
    assert_eq!(plan.scenarios, ["quality", "cold-start"]);
    assert_eq!(
        (plan.rounds, plan.repeats, plan.warm_ups, plan.answer_tokens),
        (3, 4, 0, 5)
    );
    assert_eq!(plan.prompts, ["one", "two"]);
    assert_eq!((plan.context_tokens, plan.leak_requests), (700, 80));
    assert_eq!((plan.concurrency, plan.request_rate), (vec![2, 16], Some(0.5)));
    let limits = plan.limits;
    assert_eq!(
        (limits.load, limits.request, limits.stall, limits.test),
        (1.0, 20.5, 3.0, 40.0)
    );
    assert_eq!((plan.memory_interval_ms, plan.seed), (50, 12));
    assert_eq!(output, Some(PathBuf::from("/configurations/out")));
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = r#"
pairs:
  - name: first
    gguf:
      server: llama-servr
      model: model.gguf
    mlx:
      server: llama-server
      model: ""
      address: localhost:8080
      comand: [x]
  - name: First
    gguf: {server: open-ai, model: key}
  - gguf: not a table
    mlx: {server: mlx-lm, model: key, command: [], environment: {"A=B": c}}
    mixture: perhaps
scenarios: [simple-generaton, quality, quality]
rounds: 0
repeats: 2.5
concurrency: [1, 0, 1]
request-rate: fast
limits:
  request: 10
  stall: 20
  tset: 5
prompts: [""]
memory-interval: 1
warmups: 3
"#;
    assert_snapshot!(refused(text), @r"
    the comparison cannot be run as it is asked for
      line 5: pairs[0].gguf.server: found `llama-servr`, expected one of lm-studio, llama-server, mlx-lm, ollama, diagnose, open-ai; did you mean `llama-server`?
      line 8: pairs[0].mlx.server: found `llama-server`, expected a server that reads MLX's format; this one reads GGUF files only
      line 9: pairs[0].mlx.model: found no text, expected the model as the server names it
      line 10: pairs[0].mlx.address: found `localhost:8080`, expected an address such as `http://127.0.0.1:1234`, with a port up to 65535 and without name, password or query
      line 11: pairs[0].mlx.comand: found an unknown key, expected one of server, model, address, command, environment, api-key-variable; did you mean `command`?
      line 12: pairs[1].mlx: found nothing, expected the server and the model of this format
      line 12: pairs[1].name: found `First` beside `first`, expected names that are different as names of files
      line 13: pairs[1].gguf.address: found nothing, expected the address of the server, such as `http://127.0.0.1:8000`, or a `command` that starts it
      line 14: pairs[2].name: found nothing, expected a name
      line 14: pairs[2].gguf: found the text `not a table`, expected keys and values, one `key: value` on each line
      line 15: pairs[2].mlx.command: found no words, expected a program and its arguments, one word in each place of a list
      line 15: pairs[2].mlx.environment: found `A=B`, expected the name of a variable
      line 16: pairs[2].mixture: found the text `perhaps`, expected true or false
      line 17: scenarios[0]: found `simple-generaton`, expected one of cold-start, simple-generation, context-stress, memory-leak, mixture, concurrency, quality; did you mean `simple-generation`?
      line 17: scenarios[2]: found `quality` twice, expected each scenario once
      line 18: rounds: found 0, expected a number from 1 to 100
      line 19: repeats: found `2.5`, expected a whole number
      line 20: concurrency[1]: found 0, expected a number from 1 to 256
      line 20: concurrency[2]: found 1 twice, expected each number once
      line 21: request-rate: found the text `fast`, expected a number
      line 24: limits.stall: found 20, expected no more than `limits.request`, which is 10
      line 25: limits.tset: found an unknown key, expected one of load, request, stall, test; did you mean `test`?
      line 26: prompts[0]: found no text, expected a question
      line 27: memory-interval: found 1, expected a number from 10 to 60000
      line 28: warmups: found an unknown key, expected one of pairs, scenarios, rounds, repeats, warm-ups, answer-tokens, prompts, context-tokens, leak-requests, concurrency, request-rate, limits, memory-interval, seed, output; did you mean `warm-ups`?
    ");
}

#[test]
fn what_is_no_configuration_is_told_with_its_line() {
    assert_snapshot!(refused("pairs: [\n"), @r"
    the comparison cannot be run as it is asked for
      line 1: found unclosed bracket '[' at line 1, column 8, expected keys and values, one `key: value` on each line
    ");
    assert_snapshot!(refused("- a\n- b\n"), @r"
    the comparison cannot be run as it is asked for
      line 1: found a list, expected keys and values, one `key: value` on each line
    ");
    assert_snapshot!(refused("rounds: 1\nrounds: 2\n"), @r"
    the comparison cannot be run as it is asked for
      line 2: found the key `rounds` twice, expected each key once
    ");
    assert_snapshot!(refused(""), @r"
    the comparison cannot be run as it is asked for
      line 1: found nothing, expected keys and values, one `key: value` on each line
    ");
    assert_snapshot!(refused("pairs: []\n"), @r"
    the comparison cannot be run as it is asked for
      line 1: pairs: found none, expected at least one pair
    ");
}

#[test]
fn what_is_wrong_is_told_without_printing_all_of_it() {
    let long = "x".repeat(900_000);
    for text in [
        format!("{LEAST}rounds: {long}\n"),
        format!("{LEAST}{long}: 1\n"),
        format!("{LEAST}scenarios: [{long}]\n"),
        format!("pairs: [{{name: a, gguf: {{server: ollama, model: m, address: {long}}}}}]\n"),
    ] {
        let told = refused(&text);
        assert!(told.len() < 2000, "{} bytes", told.len());
    }
}

#[test]
fn what_a_side_has_no_use_for_is_told() {
    let text = r#"
pairs:
  - name: one
    gguf:
      server: lm-studio
      model: key
      command: [lms]
      environment: {A: b}
    mlx:
      server: open-ai
      model: key
      address: http://user:secret@127.0.0.1:8000
      environment: {A: b}
  - name: two
    gguf: {server: ollama, model: m, address: "http://127.0.0.1:99999"}
    mlx: {server: open-ai, model: m, command: [vllm, serve, "{model}", --port, "{port}"], environment: {A: b}}
"#;
    assert_snapshot!(refused(text), @r"
    the comparison cannot be run as it is asked for
      line 7: pairs[0].gguf.command: found a command that starts `lm-studio`, expected nothing: this program does not start it
      line 8: pairs[0].gguf.environment: found variables of a server that this program does not start, expected nothing: they are set where the server is started
      line 12: pairs[0].mlx.address: found `...@127.0.0.1:8000`, expected an address such as `http://127.0.0.1:1234`, with a port up to 65535 and without name, password or query
      line 13: pairs[0].mlx.environment: found variables of a server that this program does not start, expected nothing: they are set where the server is started
      line 15: pairs[1].gguf.address: found `http://127.0.0.1:99999`, expected an address such as `http://127.0.0.1:1234`, with a port up to 65535 and without name, password or query
    ");
}

#[test]
fn what_is_not_there_is_told_with_its_line_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let text = r"
pairs:
  - name: one
    gguf:
      server: llama-server
      model: gone.gguf
    mlx:
      server: diagnose
      model: ./empty
    tokenizer: gone
  - name: two
    gguf:
      server: llama-server
      model: m
      command: [/nowhere/llama-server]
    mlx:
      server: mlx-lm
      model: ./gone
      api-key-variable: A_VARIABLE_THAT_NOBODY_SETS
  - name: three
    gguf: {server: llama-server, model: here.gguf}
    mlx: {server: mlx-lm, model: hub/name}
";
    std::fs::write(folder.path().join("here.gguf"), "").unwrap();
    let configured = ConfiguredPlan::parse(text, folder.path()).unwrap();
    let told = configured.check_presence(|_, _| true).unwrap_err().to_string();
    assert_snapshot!(told.replace(&folder.path().display().to_string(), "HERE"), @r"
    the comparison cannot be run as it is asked for
      line 6: pairs[0].gguf.model: found `HERE/gone.gguf`, which is no file, expected a GGUF file
      line 9: pairs[0].mlx.model: found `HERE/./empty`, a folder without `config.json`, expected a folder of a model for MLX; `diagnose convert model FILE.gguf --out FOLDER` makes a folder of a GGUF file
      line 10: pairs[0].tokenizer: found `HERE/gone`, which is not there, expected a folder of a model, or a GGUF file
      line 15: pairs[1].gguf.command: found `/nowhere/llama-server`, which is no file, expected a program that is there
      line 18: pairs[1].mlx.model: found `HERE/./gone`, which is not there, expected a folder of a model for MLX; `diagnose convert model FILE.gguf --out FOLDER` makes a folder of a GGUF file
      line 19: pairs[1].mlx.api-key-variable: found `A_VARIABLE_THAT_NOBODY_SETS`, which is not set, expected a variable that holds the key
    ");
    assert_eq!(configured.check_presence(|pair, _| pair.name == "three"), Ok(()));
    let of_gguf = configured.check_presence(|pair, format| pair.name == "two" && format == Format::Gguf);
    assert_eq!(of_gguf.unwrap_err().0.len(), 1);
}

#[test]
fn a_name_that_steers_a_terminal_is_refused() {
    let told = refused(&LEAST.replace("name: small", r#"name: "a\e[31m\a\nb""#));
    assert_eq!(
        told.lines().nth(1),
        Some(
            "  line 2: pairs[0].name: found a name with characters that steer a terminal, expected a name on one line"
        )
    );
}

/// Each list has the one before ten times, so that few lines are a billion values.
fn bomb() -> String {
    let levels = ('b'..='j').zip('a'..).map(|(level, before)| {
        let items = vec![format!("*{before}"); 10].join(", ");
        format!("{level}: &{level} [{items}]\n")
    });
    format!("a: &a [1, 1]\n{}", levels.collect::<String>())
}

#[test]
fn what_is_no_configuration_is_told_in_words_of_its_author() {
    let told = |text: &str| refused(text).lines().nth(1).unwrap_or_default().to_owned();
    let tail = "expected keys and values, one `key: value` on each line";
    let bomb = told(&bomb());
    assert!(
        bomb.ends_with(&format!(
            "found more values, levels or aliases than a configuration has, {tail}"
        )),
        "{bomb}"
    );
    assert_eq!(
        told("null: 1\n"),
        format!("  line 1: found a key without a name, {tail}")
    );
    assert_eq!(
        told("[1]: 2\n"),
        format!("  line 1: found a list or keys and values in place of a key, {tail}")
    );
    assert_eq!(
        told("a: 1\n---\nb: 2\n"),
        "  line 3: found a second document, expected one document of keys and values"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ConfiguredPlan::read(&folder.path().join("compare.yaml")).unwrap_err();
    assert!(matches!(missing, ConfigurationError::Read { .. }), "{missing}");
    let large = folder.path().join("large.yaml");
    std::fs::write(&large, "# large\n".repeat(200_000)).unwrap();
    let large = ConfiguredPlan::read(&large).unwrap_err();
    assert!(matches!(large, ConfigurationError::TooLarge { .. }), "{large}");
}

#[test]
fn a_refused_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compare.yaml");
    std::fs::write(&path, format!("{LEAST}round: 2\n")).unwrap();
    let told = ConfiguredPlan::read(&path).unwrap_err().to_string();
    let beginning = format!(
        "configuration `{}` cannot be used\n  line 5: round: found an unknown key",
        path.display()
    );
    assert!(told.starts_with(&beginning), "{told}");
    assert!(told.ends_with("did you mean `rounds`?"), "{told}");
}

#[test]
fn prompts_may_be_a_file_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompts.txt"), "one\n\n  \ntwo\n").unwrap();
    let read = |name: &str| {
        let path = folder.path().join("compare.yaml");
        std::fs::write(&path, format!("{LEAST}prompts: {name}\n")).unwrap();
        ConfiguredPlan::read(&path)
    };
    assert_eq!(read("prompts.txt").unwrap().plan.prompts, ["one", "two"]);
    let told = read("prompt.txt").unwrap_err().to_string();
    assert!(
        told.contains("line 5: prompts: found `") && told.contains("prompt.txt`, which cannot be read"),
        "{told}"
    );
}

#[test]
fn names_of_models_stay_and_paths_of_models_begin_at_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("here")).unwrap();
    let model = |server: &str, model: &str| {
        let text = format!(
            "pairs: [{{name: a, gguf: {{server: ollama, model: m}}, mlx: {{server: {server}, model: \"{model}\"}}}}]"
        );
        ConfiguredPlan::parse(&text, folder.path()).unwrap().plan.pairs[0]
            .mlx
            .model
            .clone()
    };
    let inside = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(
        model("mlx-lm", "mlx-community/SmolLM2-135M-Instruct"),
        "mlx-community/SmolLM2-135M-Instruct"
    );
    assert_eq!(model("mlx-lm", "here"), inside("here"));
    assert_eq!(model("diagnose", "./there"), inside("./there"));
    assert_eq!(model("lm-studio", "here"), "here");
    assert_eq!(model("diagnose", "/absolute"), "/absolute");
}

#[test]
fn a_plan_that_was_changed_is_checked_like_a_file() {
    let mut plan = parse(LEAST).plan;
    plan.rounds = 0;
    plan.scenarios = vec!["qualty".to_owned()];
    plan.request_rate = Some(f64::NAN);
    plan.pairs.clear();
    assert_snapshot!(plan.check().unwrap_err(), @r"
    the comparison cannot be run as it is asked for
      pairs: found none, expected at least one pair
      scenarios[0]: found `qualty`, expected one of cold-start, simple-generation, context-stress, memory-leak, mixture, concurrency, quality; did you mean `quality`?
      rounds: found 0, expected a number from 1 to 100
      request-rate: found NaN, expected a number from 0.001 to 1000
    ");
}

#[test]
fn the_built_in_comparison_can_be_run_and_has_every_scenario() {
    let plan = Plan::built_in(Path::new("model.gguf"), Path::new("folder"));
    assert_eq!(plan.check(), Ok(()));
    assert_eq!(plan.scenarios, names().collect::<Vec<_>>());
    assert_eq!(plan.context_tokens, 4000);
}

#[test]
fn a_pair_is_called_after_its_file_and_not_known_to_be_no_mixture() {
    for (file, name) in [
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Mixtral-8x7B.Q4.gguf", "Mixtral-8x7B"),
        ("Llama-3.3-70B.gguf", "Llama-3.3-70B"),
        ("Qwen3.iq2_xs.gguf", "Qwen3"),
        ("model", "model"),
    ] {
        let plan = Plan::built_in(Path::new(file), Path::new("folder"));
        assert_eq!((plan.pairs[0].name.as_str(), plan.pairs[0].mixture), (name, None));
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/compare.yaml")
}

#[test]
fn the_example_is_what_it_says_it_is() {
    let configured = ConfiguredPlan::read(&example()).unwrap();
    let expected = Plan::with_defaults(configured.plan.pairs.clone());
    assert_eq!(configured.plan, expected, "it says that its values are the defaults");
    assert_eq!(configured.plan.pairs.len(), 1);
}

#[test]
fn the_larger_pairs_of_the_example_can_be_used_as_they_are() {
    let text = std::fs::read_to_string(example()).unwrap();
    let is_of_pair = |line: &&str| line.starts_with("  # - ") || line.starts_with("  #   ");
    let uncommented: Vec<String> = text
        .lines()
        .filter(is_of_pair)
        .map(|line| line.replacen("  # ", "  ", 1))
        .collect();
    let names: Vec<String> = parse(&format!("pairs:\n{}\n", uncommented.join("\n")))
        .plan
        .pairs
        .into_iter()
        .map(|pair| pair.name)
        .collect();
    assert_eq!(
        names,
        [
            "Llama-3.3-70B-Instruct",
            "Llama-4-Scout-17B-16E-Instruct",
            "Mixtral-8x22B-Instruct"
        ]
    );
}
