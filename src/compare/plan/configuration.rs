//! A plan from a YAML file such as `config/compare.yaml`.

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::document::{Lines, Reading, Table, parse};
use super::{Format, ModelPair, Plan, PlanProblem, PlanProblems, ServerKind, Side, check, presence};
use crate::suggestion::closest;
use crate::yaml::{self, LARGEST_FILE, Node};

/// Keys of a configuration.
const KEYS: [&str; 15] = [
    "pairs",
    "scenarios",
    "rounds",
    "repeats",
    "warm-ups",
    "answer-tokens",
    "prompts",
    "context-tokens",
    "leak-requests",
    "concurrency",
    "request-rate",
    "limits",
    "memory-interval",
    "seed",
    "output",
];
/// Keys of a pair.
const PAIR_KEYS: [&str; 5] = ["name", "gguf", "mlx", "tokenizer", "mixture"];
/// Keys of a side.
const SIDE_KEYS: [&str; 6] = [
    "server",
    "model",
    "address",
    "command",
    "environment",
    "api-key-variable",
];
/// Keys of the limits.
const LIMIT_KEYS: [&str; 4] = ["load", "request", "stall", "test"];

/// A plan from a file, and where its results go.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfiguredPlan {
    /// What is compared.
    pub plan: Plan,
    /// Folder under which each comparison gets a folder of its own; `None` where the file does not say.
    pub output: Option<PathBuf>,
    /// Where its keys stand.
    lines: Lines,
}

impl From<Plan> for ConfiguredPlan {
    /// A plan that no file says.
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            output: None,
            lines: Lines::default(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file could not be read.
    #[error("configuration `{}` cannot be read\n  found: {source}\n  expected: a YAML file with the settings of a comparison", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is far too large.
    #[error("configuration `{}` is too large\n  found: more than {LARGEST_FILE} bytes\n  expected: a YAML file with the settings of a comparison", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// What it says cannot be used.
    #[error("configuration `{}` cannot be used\n{}", path.display(), problems.lines())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, with its lines.
        problems: PlanProblems,
    },
}

impl ConfiguredPlan {
    /// Reads a YAML file. A key without a value counts as not given; relative paths begin at the file's folder.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once.
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let text = match yaml::read_file(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(ConfigurationError::TooLarge { path: path.to_owned() }),
            Err(source) => {
                return Err(ConfigurationError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|problems| ConfigurationError::Wrong {
            path: path.to_owned(),
            problems,
        })
    }

    /// Reads YAML whose relative paths begin at `folder`.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, PlanProblems> {
        let document = parse(text).map_err(|problem| PlanProblems(vec![problem]))?;
        let mut reader = Reader {
            reading: Reading::default(),
            folder,
        };
        let configured = reader.configured(&document);
        let lines = reader.reading.lines;
        let mut problems = reader.reading.problems;
        problems.sort_by_key(|left| left.line);
        match configured {
            Some((plan, output)) if problems.is_empty() => Ok(Self { plan, output, lines }),
            _ => Err(PlanProblems(problems)),
        }
    }

    /// Whether what the wanted sides name is on this machine: files and folders of models, tokenizers, variables with keys.
    ///
    /// # Errors
    /// Everything that is not.
    pub fn check_presence(&self, is_wanted: impl Fn(&ModelPair, Format) -> bool) -> Result<(), PlanProblems> {
        let mut problems = Vec::new();
        for (index, pair) in self.plan.pairs.iter().enumerate() {
            for problem in presence::absent(index, pair, |format| is_wanted(pair, format)) {
                let line = self.lines.line_of(&problem.key);
                problems.push(PlanProblem { line, ..problem });
            }
        }
        problems.sort_by_key(|problem| problem.line);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(PlanProblems(problems))
        }
    }
}

struct Reader<'folder> {
    reading: Reading,
    folder: &'folder Path,
}

impl Reader<'_> {
    /// The plan, with defaults in place of values that cannot be used, and where results go; `None` where there are no settings
    /// at all.
    fn configured(&mut self, document: &Spanned<Node>) -> Option<(Plan, Option<PathBuf>)> {
        let table = self.reading.table("", document, &KEYS)?;
        let (pairs, mut later) = self.pairs(&table);
        let mut plan = Plan::with_defaults(pairs);
        self.numbers(&table, &mut plan);
        self.limits(&table, &mut plan);
        let names = "a list of names of scenarios";
        plan.scenarios = self.reading.texts(&table, "scenarios", names).unwrap_or(plan.scenarios);
        plan.prompts = self.prompts(&table).unwrap_or(plan.prompts);
        let output = self.reading.text(&table, "output").map(|path| self.resolved(&path));
        later.extend(check::values(&plan));
        for problem in later {
            let line = self.reading.lines.line_of(&problem.key);
            self.reading.problems.push(PlanProblem { line, ..problem });
        }
        Some((plan, output))
    }

    /// Pairs that could be read, and what is wrong with the values of all.
    fn pairs(&mut self, table: &Table<'_>) -> (Vec<ModelPair>, Vec<PlanProblem>) {
        let expected = "a list of model pairs, each with `name`, `gguf` and `mlx`";
        self.reading.required(table, "pairs", expected);
        let places = self.reading.list(table, "pairs", expected).unwrap_or_default();
        let mut problems = Vec::new();
        if table.has("pairs") && places.is_empty() {
            problems.push(PlanProblem::new("pairs", "none", "at least one pair"));
        }
        let mut names = Vec::new();
        let mut pairs = Vec::new();
        for (index, (path, node)) in places.into_iter().enumerate() {
            let Some(pair) = self.reading.table(&path, node, &PAIR_KEYS) else {
                continue;
            };
            self.reading.required(&pair, "name", "a name");
            let name = self.reading.text(&pair, "name");
            let gguf = self.side(&pair, Format::Gguf, &mut problems);
            let mlx = self.side(&pair, Format::Mlx, &mut problems);
            let tokenizer = self.reading.text(&pair, "tokenizer").map(|path| self.resolved(&path));
            let mixture = self.reading.truth(&pair, "mixture");
            names.extend(name.clone().map(|name| (index, name)));
            if let (Some(name), Some(gguf), Some(mlx)) = (name, gguf, mlx) {
                pairs.push(ModelPair {
                    name,
                    gguf,
                    mlx,
                    tokenizer,
                    mixture,
                });
            }
        }
        let names: Vec<(usize, &str)> = names.iter().map(|(index, name)| (*index, name.as_str())).collect();
        problems.extend(check::pair_names(&names));
        (pairs, problems)
    }

    fn side(&mut self, pair: &Table<'_>, format: Format, problems: &mut Vec<PlanProblem>) -> Option<Side> {
        let key = format.name();
        let expected = "the server and the model of this format";
        self.reading.required(pair, key, expected);
        let path = pair.path(key);
        let table = self.reading.table(&path, pair.node(key)?, &SIDE_KEYS)?;
        self.reading
            .required(&table, "server", "the program that serves the model");
        self.reading
            .required(&table, "model", "the model as the server names it");
        let server = self.server(&table);
        let model = self.reading.text(&table, "model");
        let address = self.reading.text(&table, "address");
        let command = self
            .reading
            .texts(&table, "command", "a list of words, the program first");
        let environment = self.reading.variables(&table, "environment").unwrap_or_default();
        let api_key_variable = self.reading.text(&table, "api-key-variable");
        let (server, model) = (server?, model?);
        let side = Side {
            server,
            model: self.model(server, model),
            address,
            command,
            environment,
            api_key_variable,
        };
        problems.extend(check::side(&path, format, &side));
        Some(side)
    }

    fn server(&mut self, table: &Table<'_>) -> Option<ServerKind> {
        let name = self.reading.text(table, "server")?;
        let kind = ServerKind::ALL.into_iter().find(|kind| kind.name() == name);
        if kind.is_none() {
            let names = ServerKind::ALL.map(ServerKind::name);
            let path = table.path("server");
            let line = self.reading.lines.line_of(&path);
            let problem = PlanProblem::new(path, format!("`{name}`"), format!("one of {}", names.join(", ")));
            let near = closest(&name, names);
            self.reading
                .problems
                .push(PlanProblem { line, ..problem }.meaning(near));
        }
        kind
    }

    fn numbers(&mut self, table: &Table<'_>, plan: &mut Plan) {
        let counts = [
            ("rounds", &mut plan.rounds),
            ("repeats", &mut plan.repeats),
            ("warm-ups", &mut plan.warm_ups),
            ("answer-tokens", &mut plan.answer_tokens),
            ("context-tokens", &mut plan.context_tokens),
            ("leak-requests", &mut plan.leak_requests),
        ];
        for (key, value) in counts {
            *value = self.reading.count(table, key).map_or(*value, |count| count as usize);
        }
        if let Some(levels) = self.reading.counts(table, "concurrency") {
            plan.concurrency = levels.into_iter().map(|count| count as usize).collect();
        }
        plan.request_rate = self.reading.number(table, "request-rate");
        plan.memory_interval_ms = self
            .reading
            .count(table, "memory-interval")
            .unwrap_or(plan.memory_interval_ms);
        plan.seed = self.reading.count(table, "seed").unwrap_or(plan.seed);
    }

    fn limits(&mut self, table: &Table<'_>, plan: &mut Plan) {
        let Some(node) = table.node("limits") else { return };
        let Some(table) = self.reading.table("limits", node, &LIMIT_KEYS) else {
            return;
        };
        let limits = [
            ("load", &mut plan.limits.load),
            ("request", &mut plan.limits.request),
            ("stall", &mut plan.limits.stall),
            ("test", &mut plan.limits.test),
        ];
        for (key, value) in limits {
            *value = self.reading.number(&table, key).unwrap_or(*value);
        }
    }

    /// Prompts as a list, or as a file with one on each line.
    fn prompts(&mut self, table: &Table<'_>) -> Option<Vec<String>> {
        let expected = "a list of prompts, or a text file with one on each line";
        if !matches!(table.node("prompts")?.value, Node::Scalar(_)) {
            return self.reading.texts(table, "prompts", expected);
        }
        let given = self.reading.text(table, "prompts")?;
        let path = self.resolved(&given);
        let found = match yaml::read_file(&path) {
            Ok(Some(text)) => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                return Some(lines.map(str::to_owned).collect());
            }
            Ok(None) => format!("`{}` of more than {LARGEST_FILE} bytes", path.display()),
            Err(error) => format!("`{}`, which cannot be read ({error})", path.display()),
        };
        let line = self.reading.lines.line_of("prompts");
        let problem = PlanProblem::new("prompts", found, expected);
        self.reading.problems.push(PlanProblem { line, ..problem });
        None
    }

    /// A model's name, its path from here where it is one: servers that are started here are given files and folders, and some
    /// of them names of a hub as well.
    fn model(&self, server: ServerKind, model: String) -> String {
        let takes_paths = matches!(
            server,
            ServerKind::LlamaServer | ServerKind::MlxLm | ServerKind::Diagnose
        );
        let is_gguf_file = || {
            Path::new(&model)
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        };
        let looks_like_path = ["./", "../", "~/", "/"].iter().any(|start| model.starts_with(start));
        let resolved = self.resolved(&model);
        if takes_paths && (looks_like_path || is_gguf_file() || resolved.exists()) {
            resolved.display().to_string()
        } else {
            model
        }
    }

    /// A path from here; `~` is the user's folder.
    fn resolved(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), std::env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(path),
        }
    }
}
