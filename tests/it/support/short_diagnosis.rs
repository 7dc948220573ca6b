//! A short diagnosis of the model that the program carries, for tests to change.

use mlx_diagnose::adapter::LoraSettings;
use mlx_diagnose::device::PrecisionChoice;
use mlx_diagnose::diagnosis::{DataSource, DiagnosisOptions};
use mlx_diagnose::evidence::FineTuneKind;
use mlx_diagnose::model::{ModelSource, TemplateChoice};

use super::golden::root;

/// Two steps on the two rows that the program carries, one prompt, short answers.
pub fn options() -> DiagnosisOptions {
    DiagnosisOptions {
        source: ModelSource::Folder(root().join("fixtures/embedded/model")),
        model_name: "embedded".to_owned(),
        data: DataSource::Path(root().join("fixtures/embedded/minimal")),
        data_name: "minimal".to_owned(),
        adapter: None,
        trainer: None,
        generator: None,
        prompts: vec!["Who is the harbour keeper?".to_owned()],
        prompts_file: None,
        check_only: false,
        max_tokens: 8,
        fine_tune: FineTuneKind::Lora,
        lora: LoraSettings::default(),
        steps: 2,
        batch_size: 2,
        learning_rate: 1e-4,
        warmup_steps: 0,
        clip_norm: None,
        bias_correction: false,
        mask_prompt: true,
        template: TemplateChoice::Own,
        max_sequence_length: 128,
        seed: 0,
        backend: None,
        cross_check: None,
        precision: PrecisionChoice::default(),
        adapter_folder: None,
    }
}
