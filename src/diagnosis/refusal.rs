use super::run::DiagnosisError;
use crate::adapter::AttachError;
use crate::data::ExampleError;
use crate::diagnosis::prompts::PromptError;
use crate::evidence::{Refusal, RefusalKind};
use crate::model::{CheckpointError, DisagreementKind, GgufError, LoadError, TokenizerError};

/// The error as evidence.
pub(super) fn refusal(error: &DiagnosisError) -> Refusal {
    let error_text = error.to_string();
    Refusal {
        kind: of_diagnosis(error),
        headline: error_text.lines().next().unwrap_or(&error_text).to_owned(),
        error: error_text,
    }
}

fn of_diagnosis(error: &DiagnosisError) -> RefusalKind {
    match error {
        DiagnosisError::Load(error) => of_load(error),
        DiagnosisError::Tokenizer(error) | DiagnosisError::Prompt(PromptError::Tokenizer(error)) => of_tokenizer(error),
        DiagnosisError::Data(_) | DiagnosisError::Example(ExampleError::Parts { .. }) => RefusalKind::DataFormat,
        DiagnosisError::Example(ExampleError::Row { source, .. }) => of_tokenizer(source),
        DiagnosisError::Example(ExampleError::NoTokens { .. }) => RefusalKind::ChatTemplateFailed,
        DiagnosisError::Adapter(error) => of_adapter(error),
        DiagnosisError::TokenOutOfRange { .. } => RefusalKind::Tokenizer,
        DiagnosisError::Prompt(PromptError::TooLong { .. } | PromptError::Empty)
        | DiagnosisError::Log(_)
        | DiagnosisError::PackedWeights
        | DiagnosisError::Backend(_)
        | DiagnosisError::NotByTorch { .. }
        | DiagnosisError::Mlx(_) => RefusalKind::Other,
    }
}

fn of_load(error: &LoadError) -> RefusalKind {
    match error {
        LoadError::Configuration(_) => RefusalKind::Configuration,
        LoadError::ForeignPacking(_) => RefusalKind::ForeignPacking,
        LoadError::Gguf(error) => of_gguf(error),
        LoadError::Checkpoint(error) => of_checkpoint(error),
        LoadError::Build(_) => RefusalKind::Tensors,
    }
}

fn of_gguf(error: &GgufError) -> RefusalKind {
    match error {
        GgufError::Read { .. }
        | GgufError::NotGguf { .. }
        | GgufError::UnsupportedVersion { .. }
        | GgufError::Truncated { .. }
        | GgufError::ImpossibleHeader { .. }
        | GgufError::ImpossibleTensors { .. } => RefusalKind::WeightFile,
        GgufError::UnsupportedTypes { .. } => RefusalKind::Packing,
        GgufError::UnknownTensors { .. } => RefusalKind::Tensors,
        GgufError::Metadata { .. } => RefusalKind::Configuration,
    }
}

fn of_checkpoint(error: &CheckpointError) -> RefusalKind {
    match error {
        CheckpointError::WeightFile(_) | CheckpointError::Block { .. } => RefusalKind::WeightFile,
        CheckpointError::Gguf(error) => of_gguf(error),
        CheckpointError::NoWeights { .. } | CheckpointError::Index { .. } | CheckpointError::MissingShards { .. } => {
            RefusalKind::Shards
        }
        CheckpointError::Disagreement { disagreement, .. } => match disagreement.kind {
            DisagreementKind::TiedOutput => RefusalKind::TiedOutput,
            DisagreementKind::Packing => RefusalKind::Packing,
            DisagreementKind::Tensors => RefusalKind::Tensors,
        },
        CheckpointError::NotFinite { .. } => RefusalKind::NonFiniteWeights,
        CheckpointError::Overflow { .. } => RefusalKind::WeightsOverflow,
        CheckpointError::OtherMode { .. } => RefusalKind::Packing,
        CheckpointError::Mlx(_) => RefusalKind::Other,
    }
}

fn of_tokenizer(error: &TokenizerError) -> RefusalKind {
    match error {
        TokenizerError::Absent { .. }
        | TokenizerError::Read { .. }
        | TokenizerError::Broken { .. }
        | TokenizerError::Unusable { .. }
        | TokenizerError::Gguf(_)
        | TokenizerError::Failed { .. } => RefusalKind::Tokenizer,
        TokenizerError::Template(_) => RefusalKind::ChatTemplateFailed,
        TokenizerError::NoTemplate { .. } => RefusalKind::ChatTemplateMissing,
    }
}

fn of_adapter(error: &AttachError) -> RefusalKind {
    match error {
        AttachError::UnknownKey { .. }
        | AttachError::TooManyLayers { .. }
        | AttachError::RankTooLarge { .. }
        | AttachError::ZeroRank => RefusalKind::AdapterTargets,
        AttachError::Mlx(_) => RefusalKind::Other,
    }
}
