use thiserror::Error;

use super::tensor_source::TensorSource;
use super::{CausalModel, Checkpoint, Decoder, ModelConfiguration};

/// A tensor that the configuration expects is not in the checkpoint: the check of the checkpoint and the construction
/// of the model disagree about a name.
#[derive(Debug, Error)]
#[error("no tensor `{0}` to build the model from")]
pub struct BuildError(pub(super) String);

/// Makes the decoder that `configuration` describes from a checked checkpoint.
pub fn build_model(configuration: &ModelConfiguration, checkpoint: Checkpoint) -> Result<CausalModel, BuildError> {
    let architecture = configuration.architecture;
    let names = architecture.names();
    let mut source = TensorSource::new(configuration, checkpoint.tensors, checkpoint.wavelength_factors);
    let layers = (0..configuration.num_hidden_layers)
        .map(|index| architecture.block(&mut source, index, configuration))
        .collect::<Result<_, _>>()?;
    let positions = names
        .positions
        .map(|positions| source.embedding(&format!("model.{positions}")))
        .transpose()?;
    Ok(CausalModel {
        model: Decoder {
            embed_tokens: source.embedding(&names.embedding_path())?,
            embed_positions: positions,
            embedding_scale: architecture.embedding_scale(configuration),
            layers,
            norm: source.norm(&format!("model.{}", names.norm))?,
            names,
        },
        lm_head: if configuration.tie_word_embeddings {
            None
        } else {
            Some(source.linear("lm_head")?)
        },
    })
}
