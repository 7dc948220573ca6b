//! llama.cpp's `llama-server`, from the path or from the package xllamacpp.
//!
//! Source: <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bounds::QUESTION;
use super::launched::{Asked, Assignment, HOST, Program};
use super::next_tokens::{from_entries, unsupported};
use super::python_modules::version_of;
use super::{LoadRequest, NextTokens, Surroundings, llama_cpp_package};
use crate::atomic_write::write_file;
use crate::compare::client::{HttpClient, count as count_of, items, text as text_of};
use crate::compare::{Failure, FailureKind, ServerDescription, ServerKind, Start};

/// The program's name.
const PROGRAM: &str = "llama-server";
/// Runs the package's server with the same options.
const SCRIPT: &str = include_str!("llama_server.py");
/// Where the script is written to, in the folder for scripts.
const SCRIPT_NAME: &str = "llama_server.py";

/// llama.cpp's server.
#[derive(Debug)]
pub(super) struct LlamaServer {
    environment: BTreeMap<String, String>,
    /// Version of the package, where that is what was started.
    package: Option<String>,
}

impl LlamaServer {
    /// With these variables beside ours.
    pub(super) fn new(environment: &BTreeMap<String, String>) -> Self {
        Self {
            environment: environment.clone(),
            package: None,
        }
    }

    /// The words that run the server: the program of the path, else the package's.
    fn program(&mut self, surroundings: &Surroundings) -> Result<Vec<String>, Failure> {
        if let Some(program) = on_path(PROGRAM) {
            return Ok(vec![program.to_string_lossy().into_owned()]);
        }
        let interrupt = &surroundings.interrupt;
        let python = llama_cpp_package::python(&self.environment, interrupt)?;
        self.package = version_of(&python, llama_cpp_package::PACKAGE, interrupt)?;
        let script = surroundings.scripts.join(SCRIPT_NAME);
        let written =
            std::fs::create_dir_all(&surroundings.scripts).and_then(|()| write_file(&script, SCRIPT.as_bytes()));
        written.map_err(|error| {
            Failure::of(
                FailureKind::NotWritten,
                format!("`{}` cannot be written: {error}", script.display()),
            )
        })?;
        let words = [python, OsString::from(script)];
        Ok(words.map(|word| word.to_string_lossy().into_owned()).to_vec())
    }
}

impl Program for LlamaServer {
    fn kind(&self) -> ServerKind {
        ServerKind::LlamaServer
    }

    fn command(&mut self, assignment: Assignment, surroundings: &Surroundings) -> Result<Vec<String>, Failure> {
        if !Path::new(assignment.model).is_file() {
            return Err(Failure::of(
                FailureKind::NotLoaded,
                format!("the model `{}` is no file", assignment.model),
            ));
        }
        let mut command = self.program(surroundings)?;
        command.extend(options(assignment));
        Ok(command)
    }

    fn own_model(&self) -> Option<&str> {
        None
    }

    fn chat_fields(&self, request: &LoadRequest) -> Vec<(String, Value)> {
        vec![("cache_prompt".to_owned(), request.prompt_cache.into())]
    }

    fn describe(&self, client: &HttpClient, description: &mut ServerDescription) -> Result<(), Failure> {
        let properties = client.request("/props", None, QUESTION)?.json()?;
        // The package does not know which build of llama.cpp it is; its own version tells.
        let package = self.package.clone().filter(|_| description.start == Start::Process);
        description.version = match package {
            Some(package) => Some(package),
            None => text_of(&properties, "build_info")?.map(str::to_owned),
        };
        description.quantisation = text_of(&properties, "model_ftype")?.map(str::to_owned);
        let settings = properties.get("default_generation_settings").unwrap_or(&Value::Null);
        if let Some(context) = count_of(settings, "n_ctx")? {
            description.context_length = Some(context);
        }
        if let Some(slots) = count_of(&properties, "total_slots")? {
            description.details.insert("slots".to_owned(), slots.to_string());
        }
        Ok(())
    }

    fn next_tokens(&self, asked: &Asked, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let body = json!({ "prompt": text, "n_predict": 1, "n_probs": count, "temperature": 0 });
        let answer = asked
            .client
            .request("/completion", Some(&body), asked.seconds)?
            .json()?;
        match items(&answer, "completion_probabilities")?.first() {
            Some(first) => from_entries(items(first, "top_logprobs")?),
            None => Err(unsupported(PROGRAM)),
        }
    }
}

/// The options of both programs. The context is for all slots together.
fn options(assignment: Assignment) -> Vec<String> {
    let request = assignment.request;
    let mut options: Vec<String> = [
        ("--model", assignment.model.to_owned()),
        ("--host", HOST.to_owned()),
        ("--port", assignment.port.to_string()),
        ("--ctx-size", (request.context_length * request.parallel).to_string()),
        ("--parallel", request.parallel.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    options.push("--metrics".to_owned());
    if !request.prompt_cache {
        options.extend(["--cache-ram", "0", "--no-cache-prompt"].map(str::to_owned));
    }
    options
}

/// A program of the path.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|candidate| {
        let found = candidate.metadata();
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::options;
    use crate::compare::servers::LoadRequest;
    use crate::compare::servers::launched::Assignment;

    #[test]
    fn every_slot_has_the_context_that_was_asked_for() {
        let request = LoadRequest {
            context_length: 1024,
            parallel: 8,
            prompt_cache: true,
        };
        let assignment = Assignment {
            model: "m.gguf",
            port: 1,
            request: &request,
        };
        let words = options(assignment).join(" ");
        assert!(words.contains("--ctx-size 8192 --parallel 8"), "{words}");
        assert!(!words.contains("cache-prompt"), "{words}");
    }
}
