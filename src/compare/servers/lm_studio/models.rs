//! What LM Studio has, and what of it is loaded.
//!
//! Source: <https://lmstudio.ai/docs/developer/rest/list> (v1) and <https://lmstudio.ai/docs/developer/rest/endpoints> (v0).
//! With loading on demand, `/v1/models` lists all that was downloaded: only instances and states tell what is loaded.

use serde_json::Value;

use crate::compare::client::{HttpClient, Reply, count, error_of, items, text};
use crate::compare::servers::bounds::QUESTION;
use crate::compare::{Failure, FailureKind};
use crate::suggestion::closest;

/// Begins the answer to a path that LM Studio does not know, which some versions give with status 200.
const UNKNOWN_PATH: &str = "Unexpected endpoint";

/// The two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// `/api/v0`: models are listed and asked, but neither loaded nor unloaded.
    V0,
    /// `/api/v1`, from LM Studio 0.4.0 on.
    V1,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// What requests name it by.
    pub(super) id: String,
    /// Tokens of context, where it is told.
    pub(super) context_length: Option<usize>,
}

/// A model that was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// Its name.
    pub(super) key: String,
    /// The quantisation, where it is told.
    pub(super) quantisation: Option<String>,
    /// `gguf` or `mlx`.
    pub(super) format: Option<String>,
    /// For example `26B-A4B`.
    pub(super) parameters: Option<String>,
    /// As often as it is loaded.
    pub(super) instances: Vec<Instance>,
}

/// All models, by the newest interface that the server has.
///
/// # Errors
/// It has none of the two, or refuses.
pub(super) fn list(client: &HttpClient) -> Result<(Version, Vec<Model>), Failure> {
    let reply = client.request("/api/v1/models", None, QUESTION)?;
    if !is_unknown_path(&reply) {
        return Ok((Version::V1, list_v1_of(&reply)?));
    }
    let reply = client.request("/api/v0/models", None, QUESTION)?;
    if is_unknown_path(&reply) {
        return Err(Failure::of(
            FailureKind::Unsupported,
            format!("the server at `{}` has none of LM Studio's interfaces", client.server()),
        )
        .with_hint("update LM Studio to 0.3.6 or newer, or use `open-ai`"));
    }
    let list = reply.json()?;
    let models = items(&list, "data")?
        .iter()
        .map(model_of_v0)
        .collect::<Result<_, _>>()?;
    Ok((Version::V0, models))
}

/// All models, by v1.
pub(super) fn list_v1(client: &HttpClient) -> Result<Vec<Model>, Failure> {
    list_v1_of(&client.request("/api/v1/models", None, QUESTION)?)
}

fn list_v1_of(reply: &Reply) -> Result<Vec<Model>, Failure> {
    let list = reply.json()?;
    items(&list, "models")?.iter().map(model_of_v1).collect()
}

/// The model with this key.
///
/// # Errors
/// There is none.
pub(super) fn find<'models>(models: &'models [Model], key: &str) -> Result<&'models Model, Failure> {
    if let Some(model) = models.iter().find(|model| model.key == key) {
        return Ok(model);
    }
    let missing = Failure::of(FailureKind::NotLoaded, format!("LM Studio has no model `{key}`"));
    Err(match closest(key, models.iter().map(|model| model.key.as_str())) {
        Some(similar) => missing.with_hint(format!("did you mean `{similar}`?")),
        None => missing.with_hint(format!("download it with `lms get {key}`")),
    })
}

fn is_unknown_path(reply: &Reply) -> bool {
    let told = serde_json::from_slice(&reply.body).ok().as_ref().and_then(error_of);
    reply.status == 404 || told.is_some_and(|message| message.starts_with(UNKNOWN_PATH))
}

fn model_of_v1(value: &Value) -> Result<Model, Failure> {
    let quantisation = value.get("quantization").unwrap_or(&Value::Null);
    let instances = items(value, "loaded_instances")?.iter().map(|instance| {
        let config = instance.get("config").unwrap_or(&Value::Null);
        Ok(Instance {
            id: needed(instance, "id")?,
            context_length: count(config, "context_length")?,
        })
    });
    Ok(Model {
        key: needed(value, "key")?,
        quantisation: text(quantisation, "name")?.map(str::to_owned),
        format: text(value, "format")?.map(str::to_owned),
        parameters: text(value, "params_string")?.map(str::to_owned),
        instances: instances.collect::<Result<_, Failure>>()?,
    })
}

fn model_of_v0(value: &Value) -> Result<Model, Failure> {
    let key = needed(value, "id")?;
    let is_loaded = text(value, "state")? == Some("loaded");
    let instance = Instance {
        id: key.clone(),
        context_length: count(value, "loaded_context_length")?,
    };
    Ok(Model {
        key,
        quantisation: text(value, "quantization")?.map(str::to_owned),
        format: text(value, "compatibility_type")?.map(str::to_owned),
        parameters: None,
        instances: if is_loaded { vec![instance] } else { Vec::new() },
    })
}

fn needed(object: &Value, name: &str) -> Result<String, Failure> {
    let missing = || {
        Failure::of(
            FailureKind::Malformed,
            format!("a model of LM Studio's list has no `{name}`"),
        )
    };
    text(object, name)?.map(str::to_owned).ok_or_else(missing)
}
