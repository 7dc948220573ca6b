//! Language models: configuration, weights, tokenizer, and the decoder they make.

mod adaptable;
mod architectures;
mod archive;
mod attention;
mod attention_context;
mod block;
mod build;
mod bundled_template;
mod cached_models;
mod causal_model;
mod chat_template;
mod checkpoint;
mod configuration;
mod configuration_fields;
mod convert_folder;
mod decoder;
mod element_type;
mod embedding;
mod feed_forward;
mod fingerprint;
mod folder_files;
mod foreign_model;
mod foreign_packing;
mod gguf_blocks;
mod gguf_configuration;
mod gguf_header;
mod gguf_names;
mod gguf_packing;
mod gguf_tensor;
mod gguf_tokenizer;
mod hub;
mod initialise;
mod json_fields;
mod key_value_store;
mod linear;
mod load;
mod mixed_bits;
mod norm;
mod npz_file;
mod pack_folder;
mod packed_matrix;
mod packing;
mod pickle;
mod plain_folder;
mod problem;
mod rotary;
mod sample_pass;
mod stop_set;
mod stored_names;
mod switch_linear;
mod template_json;
mod tensor_source;
mod tokenizer;
mod tokenizer_definition;
mod torch_file;
mod weight_file;
mod weight_set;
mod write_folder;

pub use adaptable::{Adaptable, StoredWeightMut, adapter_shapes};
pub use architectures::Architecture;
pub use attention::{Attention, Heads};
pub use attention_context::{AttentionContext, Offsets, Run, Segment, held_positions};
pub use block::Block;
pub use build::{BuildError, build_model};
pub use bundled_template::{BUNDLED_TEMPLATES, BundledTemplate, TemplateChoice, UnknownTemplate};
pub use cached_models::{
    CacheError, CachedModel, CachedRevision, RemovalPlan, list_models, locate_model, plan_removal,
};
pub use causal_model::CausalModel;
pub use chat_template::{ChatTemplate, ChatTemplateError, MarkedText, Message, TEMPLATE_TIME};
pub use checkpoint::{
    Checkpoint, CheckpointError, Disagreement, DisagreementKind, Precision, StoredTensor, check_shards,
};
pub use configuration::{
    CheckpointQuantization, ConfigurationError, Experts, ModelConfiguration, ModuleQuantization, QuantizationMode,
    RopeScaling, WeightType,
};
pub use convert_folder::{
    Conversion, ConversionSettings, ConvertModelError, PackingChoice, convert_model, folder_settings,
};
pub use decoder::{Decoder, DecoderNames};
pub use embedding::Embedding;
pub use feed_forward::{Activation, FeedForward};
pub use foreign_model::ForeignModel;
pub use foreign_packing::ForeignPacking;
pub use gguf_blocks::{BlockError, dequantize};
pub use gguf_header::{GgufArray, GgufError, GgufHeader, GgufTensor, GgufTensorType, GgufValue};
pub use gguf_names::{ROPE_FREQUENCIES, hugging_face_name, rotary_row_order};
pub use gguf_tokenizer::{GgufTokenizer, GgufTokenizerError, read_gguf_tokenizer};
pub use hub::{HubSettings, ResolveError};
pub use initialise::{InitialiseError, initialise};
pub use key_value_store::{Continued, KeyValueStore};
pub use linear::{Linear, LowRankSettings, Tenant, row_norms};
pub use load::{LoadError, LoadedModel, ModelFiles, ModelSource};
pub use mixed_bits::MixedBits;
pub use norm::{Norm, NormKind};
pub use npz_file::load_npz;
pub use pack_folder::{PackFolderError, pack_folder};
pub use packed_matrix::{PackedForm, PackedMatrix};
pub use packing::Packing;
pub use plain_folder::write_plain_folder;
pub use problem::{Problem, Problems, SHOWN_PROBLEMS};
pub use rotary::{RotaryEmbedding, Wavelengths, llama3_wavelengths};
pub use sample_pass::{SamplePass, SamplePassError, sample_pass, try_folder};
pub use stop_set::StopSet;
pub use switch_linear::{ExpertIndices, SwitchLinear};
pub use tokenizer::{DeclaredEnd, THINKING_TOKENS, Tokenizer, TokenizerError};
pub use torch_file::load_torch;
pub use weight_file::{StoredShape, WeightFileError, check_whole, load_safetensors, save_safetensors, stored_shapes};
pub use weight_set::{WeightFormat, WeightSet};
pub use write_folder::{WriteFolderError, write_model_folder};
