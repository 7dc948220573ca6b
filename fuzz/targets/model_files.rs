//! The configuration of a model.

use mlx_diagnose::model::{ModelConfiguration, ModelSource, Precision};
use mlx_rs::Dtype;

use super::Verdict;
use super::scratch::{fixture_bytes, folder};

/// The configuration alone, and then beside the weights of a tiny model.
pub(super) fn configuration(bytes: &[u8]) -> Verdict {
    let weights = fixture_bytes("golden/tiny/llama/model.safetensors");
    let folder = folder(&[("config.json", bytes), ("model.safetensors", &weights)]);
    let configuration = match ModelConfiguration::read(&folder.path().join("config.json")) {
        Ok(configuration) => configuration,
        refused @ Err(_) => return Verdict::of(refused),
    };
    configuration.notes();
    configuration.expected_values();
    let json = configuration.to_json();
    let object = json.as_object().expect("a configuration is written as an object");
    let again = ModelConfiguration::from_json(folder.path(), object).expect("what is written is read");
    assert_eq!(again.to_json(), json);
    let precision = Precision {
        dtype: Dtype::Float32,
        keep_packed: true,
    };
    Verdict::of(ModelSource::Folder(folder.path().to_owned()).load(precision))
}
