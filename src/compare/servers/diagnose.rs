//! This program's `serve`.

use super::bounds::{DIAGNOSE_ALTERNATIVES, QUESTION};
use super::launched::{Asked, Assignment, HOST, Program};
use super::next_tokens::{ask_completion, from_completion};
use super::{NextTokens, Surroundings};
use crate::compare::client::{HttpClient, items, text as text_of};
use crate::compare::{Failure, ServerDescription, ServerKind, Start};

/// Seconds that running answers may take when the server is stopped: nobody waits for one then.
const GRACE: &str = "1";
/// The variable of a key that would be asked for.
const KEY_VARIABLE: &str = "MLX_DIAGNOSE_API_KEY";

/// This program as a server.
#[derive(Debug)]
pub(super) struct DiagnoseServer;

impl Program for DiagnoseServer {
    fn kind(&self) -> ServerKind {
        ServerKind::Diagnose
    }

    fn command(&mut self, assignment: Assignment, surroundings: &Surroundings) -> Result<Vec<String>, Failure> {
        let request = assignment.request;
        let parallel = request.parallel.to_string();
        let context = request.context_length.to_string();
        let all_contexts = (request.context_length * request.parallel).to_string();
        let port = assignment.port.to_string();
        let mut command = vec![surroundings.program.to_string_lossy().into_owned()];
        let options = [
            ("--host", HOST),
            ("--port", &port),
            ("--max-sequences", &parallel),
            ("--max-tokens", &context),
            ("--cache-tokens", &all_contexts),
            ("--grace", GRACE),
        ];
        command.extend(["serve", assignment.model].map(str::to_owned));
        command.extend(
            options
                .iter()
                .flat_map(|(name, value)| [*name, *value])
                .map(str::to_owned),
        );
        if !request.prompt_cache {
            command.extend(["--prefix-cache", "0"].map(str::to_owned));
        }
        Ok(command)
    }

    fn without_variables(&self) -> &'static [&'static str] {
        &[KEY_VARIABLE]
    }

    fn own_model(&self) -> Option<&str> {
        None
    }

    fn describe(&self, client: &HttpClient, description: &mut ServerDescription) -> Result<(), Failure> {
        if description.start == Start::Process {
            description.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        }
        let models = client.request("/v1/models", None, QUESTION)?.json()?;
        if let Some(first) = items(&models, "data")?.first()
            && let Some(id) = text_of(first, "id")?
        {
            id.clone_into(&mut description.model);
        }
        Ok(())
    }

    fn next_tokens(&self, asked: &Asked, text: &str, count: usize) -> Result<NextTokens, Failure> {
        let count = count.clamp(1, DIAGNOSE_ALTERNATIVES);
        let answer = ask_completion(asked.client, asked.model, text, count, asked.seconds)?;
        from_completion(&answer, "this program's server")
    }
}
