//! Mixtures of experts: what several requests at one time cost, which need more experts than one.

use std::path::Path;

use serde_json::Value;

use super::concurrency::{at_levels, load};
use super::{Scenario, Stage, Stop};
use crate::compare::servers::LoadRequest;
use crate::compare::{Format, ModelPair, Plan, ServerDescription};

/// Keys of `config.json` that say how many experts a layer has: Mixtral and Llama 4, Qwen, `DeepSeek`, ERNIE.
const EXPERT_COUNTS: [&str; 4] = [
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
];

/// Where models that also see keep the settings of their language model.
const TEXT_CONFIGURATION: &str = "text_config";

/// What a server's details are called that name experts or an architecture.
const EXPERT: &str = "expert";

/// Parts of architectures' names in GGUF files that only mixtures have.
const MIXTURE_NAMES: [&str; 2] = ["moe", "mixtral"];

pub(super) struct Mixture;

impl Scenario for Mixture {
    fn name(&self) -> &'static str {
        "mixture"
    }

    fn summary(&self) -> &'static str {
        "mixtures of experts only: time for each token and memory while more requests need more experts"
    }

    fn applies(&self, _plan: &Plan, pair: &ModelPair) -> Result<(), String> {
        let is_mixture = pair
            .mixture
            .or_else(|| Format::ALL.into_iter().find_map(|format| by_files(pair, format)));
        match is_mixture {
            Some(false) => Err("the model is no mixture of experts".to_owned()),
            // Where nobody knows yet, the server may tell once it has loaded.
            Some(true) | None => Ok(()),
        }
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        load(plan)
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        stage.load(&self.needs(stage.plan()))?;
        let pair = stage.pair();
        let by_files = || Format::ALL.into_iter().find_map(|format| by_files(pair, format));
        let is_mixture = pair
            .mixture
            .or_else(by_files)
            .or_else(|| stage.server().and_then(by_server));
        match is_mixture {
            Some(true) => {}
            Some(false) => return Err(Stop::Skip("the model is no mixture of experts".to_owned())),
            None => {
                return Err(Stop::Skip(
                    "neither the plan nor the model's files nor the server says whether the model is a mixture of experts; \
                     `mixture: true` in the pair says so"
                        .to_owned(),
                ));
            }
        }
        stage.warm_up()?;
        at_levels(stage)?;
        // Two copies of a mixture seldom fit into memory.
        stage.unload()?;
        stage.routing();
        Ok(())
    }
}

/// Whether a model is a mixture as its `config.json` says; `None` where there is none.
fn by_files(pair: &ModelPair, format: Format) -> Option<bool> {
    let text = std::fs::read(Path::new(&pair.side(format).model).join("config.json")).ok()?;
    let settings: Value = serde_json::from_slice(&text).ok()?;
    let tables = [Some(&settings), settings.get(TEXT_CONFIGURATION)];
    let mut counts = tables
        .into_iter()
        .flatten()
        .flat_map(|table| EXPERT_COUNTS.iter().filter_map(|key| table.get(key)));
    Some(counts.any(|count| count.as_u64().is_some_and(|count| count > 1)))
}

/// Whether a model is a mixture as the server says; `None` where it does not say.
fn by_server(server: &ServerDescription) -> Option<bool> {
    let counts = server
        .details
        .iter()
        .filter(|(name, _)| name.to_lowercase().contains(EXPERT));
    let has_experts = counts
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .any(|count| count > 1);
    let architecture = server
        .details
        .get("architecture")
        .or_else(|| server.details.get("arch"));
    let is_named = architecture.is_some_and(|name| MIXTURE_NAMES.iter().any(|part| name.to_lowercase().contains(part)));
    (has_experts || is_named).then_some(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Mixture;
    use crate::compare::scenarios::Scenario;
    use crate::compare::{ModelPair, Plan, ServerKind, Side};

    fn pair(model: &str, mixture: Option<bool>) -> ModelPair {
        let side = |server| Side {
            server,
            model: model.to_owned(),
            address: None,
            command: None,
            environment: BTreeMap::new(),
            api_key_variable: None,
        };
        ModelPair {
            name: "pair".to_owned(),
            gguf: side(ServerKind::LlamaServer),
            mlx: side(ServerKind::Diagnose),
            tokenizer: None,
            mixture,
        }
    }

    fn applies(configuration: &str, mixture: Option<bool>) -> bool {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), configuration).unwrap();
        let pair = pair(&folder.path().display().to_string(), mixture);
        Mixture.applies(&Plan::with_defaults(vec![pair.clone()]), &pair).is_ok()
    }

    /// Lines of the `config.json` of Mixtral-8x22B-Instruct-v0.1, Llama-4-Scout-17B-16E-Instruct and SmolLM2-135M-Instruct.
    #[test]
    fn a_mixture_is_known_by_its_configuration() {
        assert!(applies(r#"{"num_experts_per_tok": 2, "num_local_experts": 8}"#, None));
        assert!(applies(r#"{"text_config": {"num_local_experts": 16}}"#, None));
        assert!(!applies(r#"{"model_type": "llama", "num_attention_heads": 9}"#, None));
    }

    #[test]
    fn the_plan_knows_better_than_files() {
        assert!(applies(r#"{"model_type": "llama"}"#, Some(true)));
        assert!(!applies(r#"{"num_local_experts": 8}"#, Some(false)));
    }

    #[test]
    fn what_nobody_knows_is_left_to_the_server() {
        assert!(
            Mixture
                .applies(&Plan::with_defaults(Vec::new()), &pair("some-key", None))
                .is_ok()
        );
    }
}
