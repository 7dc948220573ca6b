//! Whether what a plan names is on this machine, before hours are spent on the rest of it.

use std::path::Path;

use super::{Format, ModelPair, PlanProblem, ServerKind, Side};

/// The file that every folder of a model has.
const MODEL_FILE: &str = "config.json";
/// What helps where a folder for MLX is missing.
const CONVERT_HINT: &str = "`diagnose convert model FILE.gguf --out FOLDER` makes a folder of a GGUF file";

/// What of a pair is not there, of the formats that are wanted.
pub(super) fn absent(index: usize, pair: &ModelPair, is_wanted: impl Fn(Format) -> bool) -> Vec<PlanProblem> {
    let path = format!("pairs[{index}]");
    let wanted: Vec<Format> = Format::ALL.into_iter().filter(|format| is_wanted(*format)).collect();
    let mut problems = Vec::new();
    for format in wanted.iter().copied() {
        let side = pair.side(format);
        let path = format!("{path}.{}", format.name());
        problems.extend(model(&path, side));
        problems.extend(program(&path, side));
        problems.extend(key(&path, side));
    }
    let tokenizer = pair.tokenizer.as_ref().filter(|tokenizer| !tokenizer.exists());
    if let Some(tokenizer) = tokenizer.filter(|_| !wanted.is_empty()) {
        let found = format!("`{}`, which is not there", tokenizer.display());
        problems.push(PlanProblem::new(
            format!("{path}.tokenizer"),
            found,
            "a folder of a model, or a GGUF file",
        ));
    }
    problems
}

/// What is wrong with the model of a server that is started by its usual command. Names of a hub are left to the server.
fn model(path: &str, side: &Side) -> Option<PlanProblem> {
    if side.address.is_some() || side.command.is_some() {
        return None;
    }
    let model = Path::new(&side.model);
    let problem = |what: &str, expected: &str| {
        let found = format!("`{}`, {what}", side.model);
        PlanProblem::new(format!("{path}.model"), found, expected)
    };
    let with_hint = |problem: PlanProblem| PlanProblem {
        hint: Some(CONVERT_HINT.to_owned()),
        ..problem
    };
    match side.server {
        ServerKind::LlamaServer if !model.is_file() => Some(problem("which is no file", "a GGUF file")),
        ServerKind::MlxLm | ServerKind::Diagnose if !model.is_absolute() => None,
        ServerKind::MlxLm if model.is_file() => Some(with_hint(problem("a file", "a folder of a model for MLX"))),
        ServerKind::MlxLm | ServerKind::Diagnose if !model.exists() => {
            Some(with_hint(problem("which is not there", "a folder of a model for MLX")))
        }
        ServerKind::MlxLm | ServerKind::Diagnose if model.is_dir() && !model.join(MODEL_FILE).is_file() => {
            let what = format!("a folder without `{MODEL_FILE}`");
            Some(with_hint(problem(&what, "a folder of a model for MLX")))
        }
        _ => None,
    }
}

/// A program that is named by its path.
fn program(path: &str, side: &Side) -> Option<PlanProblem> {
    let program = side.command.as_ref()?.first()?;
    let is_absent = program.contains('/') && !program.contains('{') && !Path::new(program).is_file();
    is_absent.then(|| {
        let found = format!("`{program}`, which is no file");
        PlanProblem::new(format!("{path}.command"), found, "a program that is there")
    })
}

/// The variable that is to hold the key.
fn key(path: &str, side: &Side) -> Option<PlanProblem> {
    let variable = side.api_key_variable.as_ref()?;
    std::env::var_os(variable).is_none().then(|| {
        let found = format!("`{variable}`, which is not set");
        PlanProblem::new(
            format!("{path}.api-key-variable"),
            found,
            "a variable that holds the key",
        )
    })
}
