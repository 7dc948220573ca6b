//! Loading a model into LM Studio, and unloading it.
//!
//! Source: <https://lmstudio.ai/docs/developer/rest/load> and <https://lmstudio.ai/docs/developer/rest/unload>.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::command;
use super::models::{Model, Version, find, list, list_v1};
use super::{LmStudioServer, LoadedModel, Unloading};
use crate::compare::client::{count as count_of, duration, text as text_of};
use crate::compare::servers::LoadRequest;
use crate::compare::servers::bounds::{LM_STUDIO_IDLE, QUESTION};
use crate::compare::{Failure, FailureKind, Loaded, ServerDescription, ServerKind, Start};

/// What helps where LM Studio loads a model by itself.
const ON_DEMAND_HINT: &str = "turn off just-in-time loading in LM Studio's server settings";

impl LmStudioServer {
    /// Loads by v1.
    pub(super) fn load_v1(&mut self, model: &Model, request: &LoadRequest) -> Result<(Loaded, Vec<Model>), Failure> {
        for instance in &model.instances {
            // Loaded already, it would neither have the context that is asked for nor show how long loading takes.
            self.unload_instance(&instance.id)?;
        }
        let body = json!({
            "model": self.key,
            "context_length": request.context_length,
            "echo_load_config": true,
        });
        // Where loading is given up in the middle, the key stands for whatever instance comes of it.
        self.loaded = Some(LoadedModel {
            version: Version::V1,
            instance: self.key.clone(),
            unloading: Unloading::Request,
        });
        let began = Instant::now();
        let reply = self
            .client
            .request("/api/v1/models/load", Some(&body), self.surroundings.limits.load)?;
        let told = reply.json().map_err(|failure| not_loaded(failure, reply.status))?;
        let ready = began.elapsed().as_secs_f64();
        let missing = || {
            Failure::of(
                FailureKind::Malformed,
                "LM Studio loaded a model and does not name the instance",
            )
        };
        let instance = text_of(&told, "instance_id")?.ok_or_else(missing)?;
        self.loaded = Some(LoadedModel {
            version: Version::V1,
            instance: instance.to_owned(),
            unloading: Unloading::Request,
        });
        let models = list_v1(&self.client)?;
        let now = find(&models, &self.key)?;
        let Some(loaded) = now.instances.iter().find(|loaded| loaded.id == instance) else {
            return Err(Failure::of(
                FailureKind::NotLoaded,
                format!("LM Studio says that it loaded `{instance}`, and does not list it as loaded"),
            ));
        };
        let config = told.get("load_config").unwrap_or(&Value::Null);
        let context = loaded.context_length.or(count_of(config, "context_length")?);
        let server = self.description(model, instance, context, Start::Load);
        let loaded = Loaded {
            server,
            ready_seconds: Some(ready),
            told_seconds: duration(&told, "load_time_seconds", 1.0)?,
        };
        Ok((loaded, models))
    }

    /// Loads by `lms`, or by asking for one token, since v0 has no way to load.
    pub(super) fn load_v0(&mut self, model: &Model, request: &LoadRequest) -> Result<(Loaded, Vec<Model>), Failure> {
        let has_command = self.client.server().is_local() && command::is_installed(&self.surroundings.interrupt);
        let unloading = match (model.instances.is_empty(), has_command) {
            (false, _) => Unloading::Nothing,
            (true, true) => Unloading::Command,
            (true, false) => Unloading::Idleness,
        };
        self.loaded = Some(LoadedModel {
            version: Version::V0,
            instance: self.key.clone(),
            unloading,
        });
        let began = Instant::now();
        match unloading {
            Unloading::Command => command::load(&self.key, request, &self.surroundings)?,
            Unloading::Idleness => self.load_on_demand()?,
            Unloading::Request | Unloading::Nothing => {}
        }
        let ready = began.elapsed().as_secs_f64();
        let (_, models) = list(&self.client)?;
        let now = find(&models, &self.key)?;
        let Some(instance) = now.instances.first() else {
            return Err(Failure::of(
                FailureKind::NotLoaded,
                format!("LM Studio does not list `{}` as loaded", self.key),
            ));
        };
        let was_there = unloading == Unloading::Nothing;
        let start = if was_there { Start::Already } else { Start::Load };
        let told = instance.context_length;
        let context = told.or((unloading == Unloading::Command).then_some(request.context_length));
        let mut server = self.description(model, &instance.id, context, start);
        if unloading == Unloading::Idleness {
            let detail = "on demand: its interface v0 sets no context and has no way to unload".to_owned();
            server.details.insert("loading".to_owned(), detail);
        }
        let loaded = Loaded {
            server,
            ready_seconds: (!was_there).then_some(ready),
            told_seconds: None,
        };
        Ok((loaded, models))
    }

    fn load_on_demand(&self) -> Result<(), Failure> {
        let body = json!({
            "model": self.key,
            "messages": [{ "role": "user", "content": "a" }],
            "max_tokens": 1,
            "ttl": LM_STUDIO_IDLE,
        });
        let limit = self.surroundings.limits.load;
        let reply = self.client.request("/api/v0/chat/completions", Some(&body), limit)?;
        reply
            .json()
            .map(|_| ())
            .map_err(|failure| not_loaded(failure, reply.status))
    }

    /// Unloads an instance, also where the user has ended the run.
    fn unload_instance(&self, instance: &str) -> Result<(), Failure> {
        let body = json!({ "instance_id": instance });
        let client = self.client.uninterrupted();
        client
            .request("/api/v1/models/unload", Some(&body), QUESTION)?
            .json()
            .map(|_| ())
    }

    /// Unloads every instance of the model, and tells of those that this program did not load.
    pub(super) fn unload_v1(&self, instance: &str) -> Result<(), Failure> {
        let client = self.client.uninterrupted();
        let models = list_v1(&client)?;
        let instances = &find(&models, &self.key)?.instances;
        let mut duplicates = Vec::new();
        for loaded in instances {
            self.unload_instance(&loaded.id)?;
            if loaded.id != instance {
                duplicates.push(format!("`{}`", loaded.id));
            }
        }
        let is_left = !find(&list_v1(&client)?, &self.key)?.instances.is_empty();
        if is_left {
            return Err(Failure::of(
                FailureKind::ServerError,
                format!("LM Studio still lists `{}` as loaded after unloading it", self.key),
            ));
        }
        if duplicates.is_empty() {
            return Ok(());
        }
        duplicates.sort_unstable();
        let names = duplicates.join(", ");
        Err(Failure::of(
            FailureKind::ServerError,
            format!("LM Studio loaded the model more than once: beside `{instance}` there was {names}"),
        )
        .with_hint(ON_DEMAND_HINT))
    }

    fn description(
        &self,
        model: &Model,
        instance: &str,
        context_length: Option<usize>,
        start: Start,
    ) -> ServerDescription {
        let mut details = BTreeMap::new();
        let told = [("format", &model.format), ("parameters", &model.parameters)];
        for (name, value) in told {
            if let Some(value) = value {
                details.insert(name.to_owned(), value.clone());
            }
        }
        ServerDescription {
            kind: ServerKind::LmStudio,
            version: None,
            address: self.client.server().to_string(),
            command: None,
            model: instance.to_owned(),
            quantisation: model.quantisation.clone(),
            context_length,
            start,
            details,
        }
    }
}

/// A refusal to load, told as such; one for want of a key stays what it is.
fn not_loaded(failure: Failure, status: u16) -> Failure {
    match failure.kind {
        FailureKind::Refused | FailureKind::ServerError if status != 401 && status != 403 => Failure {
            kind: FailureKind::NotLoaded,
            ..failure
        },
        _ => failure,
    }
}
