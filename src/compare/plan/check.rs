//! Whether a plan can be run, wherever its values come from.

use std::collections::{BTreeMap, BTreeSet};

use super::defaults::BOUNDS;
use super::{Format, ModelPair, Plan, PlanProblem, PlanProblems, ServerKind, Side};
use crate::compare::client::Address;
use crate::compare::record::file_name;
use crate::compare::scenarios;
use crate::suggestion::closest;

impl Plan {
    /// Whether it can be run.
    ///
    /// # Errors
    /// Everything that is wrong with it, without line numbers.
    pub fn check(&self) -> Result<(), PlanProblems> {
        let names: Vec<(usize, &str)> = self.pairs.iter().map(|pair| pair.name.as_str()).enumerate().collect();
        let mut problems = pair_names(&names);
        for (index, pair) in self.pairs.iter().enumerate() {
            problems.extend(sides(index, pair));
        }
        if self.pairs.is_empty() {
            problems.push(PlanProblem::new("pairs", "none", "at least one pair"));
        }
        problems.extend(values(self));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(PlanProblems(problems))
        }
    }
}

/// What is wrong with names of pairs, each with its index.
pub(super) fn pair_names(names: &[(usize, &str)]) -> Vec<PlanProblem> {
    let mut problems = Vec::new();
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for &(index, name) in names {
        let key = format!("pairs[{index}].name");
        if name.trim().is_empty() {
            problems.push(PlanProblem::new(key, "no text", "a name"));
            continue;
        }
        if name.contains(char::is_control) {
            let found = "a name with characters that steer a terminal";
            problems.push(PlanProblem::new(key, found, "a name on one line"));
            continue;
        }
        // File systems of macOS take `a` and `A` for one name.
        match taken.insert(file_name(name).to_lowercase(), name) {
            Some(other) if other == name => {
                problems.push(PlanProblem::new(key, format!("`{name}` twice"), "a name for each pair"));
            }
            Some(other) => problems.push(PlanProblem::new(
                key,
                format!("`{name}` beside `{other}`"),
                "names that are different as names of files",
            )),
            None => {}
        }
    }
    problems
}

/// What is wrong with both sides of a pair.
pub(super) fn sides(index: usize, pair: &ModelPair) -> Vec<PlanProblem> {
    let of = |format| {
        side(
            &format!("pairs[{index}].{}", Format::name(format)),
            format,
            pair.side(format),
        )
    };
    Format::ALL.into_iter().flat_map(of).collect()
}

/// What is wrong with one side, whose key is `path`.
pub(super) fn side(path: &str, format: Format, side: &Side) -> Vec<PlanProblem> {
    let mut problems = Vec::new();
    let mut wrong = |key: &str, found: String, expected: &str| {
        problems.push(PlanProblem::new(format!("{path}.{key}"), found, expected));
    };
    let server = side.server.name();
    match (format, side.server) {
        (Format::Mlx, ServerKind::LlamaServer) => {
            wrong(
                "server",
                format!("`{server}`"),
                "a server that reads MLX's format; this one reads GGUF files only",
            );
        }
        (Format::Gguf, ServerKind::MlxLm) => {
            wrong(
                "server",
                format!("`{server}`"),
                "a server that reads GGUF files; this one reads MLX's format only",
            );
        }
        _ => {}
    }
    if side.model.trim().is_empty() {
        wrong("model", "no text".to_owned(), "the model as the server names it");
    }
    if let Some(address) = &side.address {
        if Address::read(address).is_err() {
            // What stands before an `@` may be a password.
            let found = match address.rsplit_once('@') {
                Some((_, host)) => format!("`...@{host}`"),
                None => format!("`{address}`"),
            };
            let expected = "an address such as `http://127.0.0.1:1234`, with a port up to 65535 and without name, password or \
                            query";
            wrong("address", found, expected);
        }
        if side.command.is_some() {
            wrong(
                "command",
                "a command beside an address".to_owned(),
                "one of them: an address of a server that runs already, or the command that starts one",
            );
        }
    } else if side.server == ServerKind::OpenAi && side.command.is_none() {
        wrong(
            "address",
            "nothing".to_owned(),
            "the address of the server, such as `http://127.0.0.1:8000`, or a `command` that starts it",
        );
    }
    let is_never_started = matches!(side.server, ServerKind::LmStudio | ServerKind::Ollama);
    if side.command.is_some() && is_never_started {
        wrong(
            "command",
            format!("a command that starts `{server}`"),
            "nothing: this program does not start it",
        );
    }
    if !side.environment.is_empty() && (is_never_started || side.address.is_some()) {
        wrong(
            "environment",
            "variables of a server that this program does not start".to_owned(),
            "nothing: they are set where the server is started",
        );
    }
    if side
        .command
        .as_ref()
        .is_some_and(|words| words.first().is_none_or(|program| program.trim().is_empty()))
    {
        wrong(
            "command",
            "no words".to_owned(),
            "a program and its arguments, one word in each place of a list",
        );
    }
    for name in side.environment.keys().chain(&side.api_key_variable) {
        if name.is_empty() || name.contains(['=', '\0']) {
            let key = if side.environment.contains_key(name) {
                "environment"
            } else {
                "api-key-variable"
            };
            wrong(key, format!("`{name}`"), "the name of a variable");
        }
    }
    problems
}

/// What is wrong with everything but the pairs.
pub(super) fn values(plan: &Plan) -> Vec<PlanProblem> {
    let mut problems = scenario_names(&plan.scenarios);
    problems.extend(numbers(plan));
    problems.extend(limits(plan));
    if plan.prompts.is_empty() {
        problems.push(PlanProblem::new("prompts", "none", "at least one prompt"));
    }
    for (index, prompt) in plan.prompts.iter().enumerate() {
        if prompt.trim().is_empty() {
            problems.push(PlanProblem::new(format!("prompts[{index}]"), "no text", "a question"));
        }
    }
    problems
}

fn scenario_names(given: &[String]) -> Vec<PlanProblem> {
    let mut problems = Vec::new();
    let known: Vec<&str> = scenarios::names().collect();
    let mut seen = BTreeSet::new();
    if given.is_empty() {
        problems.push(PlanProblem::new("scenarios", "none", "at least one scenario"));
    }
    for (index, name) in given.iter().enumerate() {
        let key = format!("scenarios[{index}]");
        if !known.contains(&name.as_str()) {
            let expected = format!("one of {}", known.join(", "));
            let near = closest(name, known.iter().copied());
            problems.push(PlanProblem::new(key, format!("`{name}`"), expected).meaning(near));
        } else if !seen.insert(name) {
            problems.push(PlanProblem::new(key, format!("`{name}` twice"), "each scenario once"));
        }
    }
    problems
}

/// Every number of a plan against [`BOUNDS`].
fn numbers(plan: &Plan) -> Vec<PlanProblem> {
    let mut given = vec![
        ("rounds".to_owned(), "rounds", plan.rounds as f64),
        ("repeats".to_owned(), "repeats", plan.repeats as f64),
        ("warm-ups".to_owned(), "warm-ups", plan.warm_ups as f64),
        ("answer-tokens".to_owned(), "answer-tokens", plan.answer_tokens as f64),
        (
            "context-tokens".to_owned(),
            "context-tokens",
            plan.context_tokens as f64,
        ),
        ("leak-requests".to_owned(), "leak-requests", plan.leak_requests as f64),
        ("limits.load".to_owned(), "limits.load", plan.limits.load),
        ("limits.request".to_owned(), "limits.request", plan.limits.request),
        ("limits.stall".to_owned(), "limits.stall", plan.limits.stall),
        ("limits.test".to_owned(), "limits.test", plan.limits.test),
        (
            "memory-interval".to_owned(),
            "memory-interval",
            plan.memory_interval_ms as f64,
        ),
    ];
    given.extend(
        plan.request_rate
            .map(|rate| ("request-rate".to_owned(), "request-rate", rate)),
    );
    for (index, at_once) in plan.concurrency.iter().enumerate() {
        given.push((format!("concurrency[{index}]"), "concurrency", *at_once as f64));
    }
    let mut problems = Vec::new();
    for (key, name, value) in given {
        for bound in BOUNDS.iter().filter(|bound| bound.key == name) {
            // Not a number is in no range either.
            if !(bound.least..=bound.most).contains(&value) {
                let expected = format!("a number from {} to {}", bound.least, bound.most);
                problems.push(PlanProblem::new(key.clone(), value.to_string(), expected));
            }
        }
    }
    let mut levels = BTreeSet::new();
    if plan.concurrency.is_empty() {
        problems.push(PlanProblem::new(
            "concurrency",
            "none",
            "at least one number of requests",
        ));
    }
    for (index, at_once) in plan.concurrency.iter().enumerate() {
        if !levels.insert(at_once) {
            let key = format!("concurrency[{index}]");
            problems.push(PlanProblem::new(key, format!("{at_once} twice"), "each number once"));
        }
    }
    problems
}

/// A time that can never come is no limit.
fn limits(plan: &Plan) -> Vec<PlanProblem> {
    let limits = &plan.limits;
    let ordered = [
        ("limits.stall", limits.stall, "limits.request", limits.request),
        ("limits.request", limits.request, "limits.test", limits.test),
        ("limits.load", limits.load, "limits.test", limits.test),
    ];
    let above = ordered.into_iter().filter(|(_, inner, _, outer)| inner > outer);
    above
        .map(|(key, inner, outer_key, outer)| {
            PlanProblem::new(
                key,
                format!("{inner}"),
                format!("no more than `{outer_key}`, which is {outer}"),
            )
        })
        .collect()
}
