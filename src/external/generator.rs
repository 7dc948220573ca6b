use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::chat_server::{ChatServer, ServerError};
use super::mlx_lm_command::mlx_lm;
use super::printed_answer::answer_in;
use super::{Ending, Template, TemplateError, Watched, process};
use crate::interrupt::Interrupt;

/// Everything that a placeholder in a generator's command can stand for.
const PLACEHOLDERS: [&str; 4] = ["adapter", "max_tokens", "model", "prompt"];
/// Bytes of a printed answer at most.
const LONGEST_ANSWER: u64 = 1 << 20;
/// The placeholder that a whole model leaves empty.
const ADAPTER: &str = "adapter";
/// What Python's mlx-lm is asked with, so that it prints nothing but the answer.
const MLX_LM: &str = "--model {model} --prompt {prompt} --max-tokens {max_tokens} --temp 0 --verbose False";
/// The option by which it takes an adapter.
const MLX_LM_ADAPTER: &str = " --adapter-path {adapter}";

/// A generator that is another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalGenerator {
    /// What the user called it: `mlx-lm`, a command, or the address of a server.
    pub name: String,
    /// The model to ask a server for; `None` for the one that it serves anyway.
    pub served_model: Option<String>,
    /// Longest time that one answer may take.
    pub timeout: Duration,
}

/// One answer of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// Whether it ended before the limit of tokens; `None` when the generator does not tell.
    pub ended: Option<bool>,
}

/// What a generator is to answer with.
#[derive(Debug, Clone)]
pub struct Question<'run> {
    /// The base, or a whole model.
    pub model: &'run Path,
    /// The adapter; `None` for a whole model.
    pub adapter: Option<&'run Path>,
    /// The prompt as the user wrote it.
    pub prompt: &'run str,
    /// Longest answer in tokens.
    pub max_tokens: usize,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// The command cannot be filled in.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The command could not be run, or its answer could not be read.
    #[error("the generator could not be run: {0}")]
    Io(#[from] std::io::Error),
    /// It failed.
    #[error("the generator failed with {code}{}", last(.last_lines))]
    Failed {
        /// How it ended: an exit code or a signal.
        code: String,
        /// What it wrote last on standard error.
        last_lines: Vec<String>,
    },
    /// It took too long.
    #[error("the generator gave no answer in {} s and was stopped{}", .timeout.as_secs_f64(), last(.last_lines))]
    TimedOut {
        /// Longest time that one answer may take.
        timeout: Duration,
        /// What it wrote last on standard error.
        last_lines: Vec<String>,
    },
    /// The answer cannot be one.
    #[error("the generator printed {bytes} bytes\n  expected: an answer of at most {LONGEST_ANSWER} bytes")]
    TooLong {
        /// How much it printed.
        bytes: u64,
    },
    /// The answer is no text.
    #[error("the generator's answer is not UTF-8")]
    NotText,
    /// The server gave no answer.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

fn last(lines: &[String]) -> String {
    lines
        .last()
        .map_or_else(String::new, |line| format!("\n  found: {line}"))
}

impl ExternalGenerator {
    /// The preset for Python's mlx-lm.
    pub const MLX_LM: &str = "mlx-lm";

    /// Whether it is a server, which answers with what it has loaded.
    pub fn is_server(&self) -> bool {
        self.name.starts_with("http://") || self.name.starts_with("https://")
    }

    /// Whether its command can be filled in; without an adapter there is no `{adapter}`.
    ///
    /// # Errors
    /// It names a placeholder that there is not.
    pub fn check(&self, has_adapter: bool) -> Result<(), TemplateError> {
        if self.is_server() {
            return Ok(());
        }
        let known: Vec<&str> = PLACEHOLDERS
            .into_iter()
            .filter(|name| has_adapter || *name != ADAPTER)
            .collect();
        self.template(has_adapter).check(&known)
    }

    /// Asks one question; what a command writes on standard error goes to `observe` line by line.
    ///
    /// # Errors
    /// It fails, takes too long, or is ended by the user.
    pub fn answer(
        &self,
        question: &Question,
        interrupt: &Interrupt,
        observe: &mut dyn FnMut(&str),
    ) -> Result<Reply, GeneratorError> {
        if self.is_server() {
            let server = ChatServer {
                address: &self.name,
                model: self.served_model.as_deref(),
                timeout: self.timeout,
            };
            let Some(reply) = server.answer(question.prompt, question.max_tokens, interrupt)? else {
                return Err(GeneratorError::Interrupted);
            };
            return Ok(reply);
        }
        self.run(question, interrupt, observe)
    }

    fn template(&self, has_adapter: bool) -> Template {
        Template(if self.name == Self::MLX_LM {
            mlx_lm("generate", MLX_LM) + if has_adapter { MLX_LM_ADAPTER } else { "" }
        } else {
            self.name.clone()
        })
    }

    fn run(
        &self,
        question: &Question,
        interrupt: &Interrupt,
        observe: &mut dyn FnMut(&str),
    ) -> Result<Reply, GeneratorError> {
        let folder = tempfile::tempdir()?;
        let (output, log) = (folder.path().join("output"), folder.path().join("log"));
        let mut values = BTreeMap::from([
            ("max_tokens", question.max_tokens.to_string()),
            ("model", question.model.display().to_string()),
            ("prompt", question.prompt.to_owned()),
            ("output", output.display().to_string()),
        ]);
        if let Some(adapter) = question.adapter {
            values.insert(ADAPTER, adapter.display().to_string());
        }
        // The answer goes to a file of its own, so that warnings do not get into it.
        let redirected = Template(format!(
            "exec >{{output}}\n{}",
            self.template(question.adapter.is_some()).0
        ));
        let finished = process::run(
            &Watched {
                command: &redirected.fill(&values)?,
                log: &log,
                timeout: self.timeout,
                interrupt,
            },
            observe,
        )?;
        let last_lines = finished.last_lines;
        match finished.ending {
            Ending::Exited(Some(0)) => {}
            Ending::Exited(code) => {
                return Err(GeneratorError::Failed {
                    code: code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")),
                    last_lines,
                });
            }
            Ending::TimedOut => {
                return Err(GeneratorError::TimedOut {
                    timeout: self.timeout,
                    last_lines,
                });
            }
            Ending::Interrupted => return Err(GeneratorError::Interrupted),
        }
        let bytes = std::fs::metadata(&output)?.len();
        if bytes > LONGEST_ANSWER {
            return Err(GeneratorError::TooLong { bytes });
        }
        let printed = String::from_utf8(std::fs::read(&output)?).map_err(|_| GeneratorError::NotText)?;
        Ok(Reply {
            text: answer_in(&printed),
            ended: None,
        })
    }
}
