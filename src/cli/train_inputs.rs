//! What a run is given, and what is wrong with it, with the lines of the configuration that gave it.

use std::iter::once;
use std::path::Path;

use anyhow::{Result, anyhow};

use super::output::{note, without_controls};
use super::run::{described, resolve_model};
use crate::data::DataFiles;
use crate::fine_tuning::{Configuration, FineTuneSettings, Origin, PlanError};
use crate::model::ModelSource;

/// The settings, and where the model lies; what is to be said of them is, where this process `prints`.
///
/// # Errors
/// Everything that can be found wrong without either, at once.
pub fn inputs(configuration: &Configuration, prints: bool) -> Result<(FineTuneSettings, ModelSource)> {
    let of_model = |error| standing(configuration, "model", &error);
    let of_data = |error| standing(configuration, "data", &anyhow::Error::from(error));
    let settings = match settings(configuration, prints) {
        Ok(settings) => settings,
        Err(error) => {
            let given = |key: &str| configuration.get(key).and_then(|entry| entry.value.as_str());
            // A hub id would be looked up in the network.
            let model = given("model").filter(|model| model.starts_with(['/', '.']));
            let model = model.and_then(|model| resolve_model(model).err());
            let data = given("data").filter(|data| !Path::new(data).exists());
            let data = data.and_then(|data| DataFiles::read(data.as_ref()).err());
            return Err(together(
                once(error).chain(model.map(of_model)).chain(data.map(of_data)),
            ));
        }
    };
    match resolve_model(&settings.model) {
        Ok(source) => Ok((settings, source)),
        Err(error) => {
            let data = DataFiles::read_with(&settings.data, &settings.record_keys).err();
            Err(together(once(of_model(error)).chain(data.map(of_data))))
        }
    }
}

fn settings(configuration: &Configuration, prints: bool) -> Result<FineTuneSettings> {
    let (settings, notes) = FineTuneSettings::read(configuration)?;
    for line in notes.into_iter().filter(|_| prints) {
        note(&without_controls(format!("note: {line}")));
    }
    Ok(settings)
}

/// The error that a plan could not be made, with the lines of the model and of the data; another error as it is.
pub fn at_its_line(configuration: &Configuration, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<PlanError>() {
        Ok(PlanError::Several(errors)) => {
            together(errors.into_iter().map(|error| at_its_line(configuration, error.into())))
        }
        Ok(error @ (PlanError::Load(_) | PlanError::Tokenizer(_))) => standing(configuration, "model", &error.into()),
        Ok(error @ PlanError::Data(_)) => standing(configuration, "data", &error.into()),
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

/// An error about the value of `key`, with the line of the file that gave the value.
fn standing(configuration: &Configuration, key: &str, error: &anyhow::Error) -> anyhow::Error {
    let said = described(error);
    let (headline, rest) = said.split_once('\n').unwrap_or((&said, ""));
    let line = match configuration.get(key).map(|entry| &entry.origin) {
        Some(origin @ Origin::File { .. }) => Some(format!("  given: {origin}: {key}")),
        _ => None,
    };
    let parts = [
        Some(headline),
        line.as_deref(),
        Some(rest).filter(|rest| !rest.is_empty()),
    ];
    anyhow!(parts.into_iter().flatten().collect::<Vec<_>>().join("\n"))
}

/// Several errors as one, each with its own headline.
fn together(errors: impl Iterator<Item = anyhow::Error>) -> anyhow::Error {
    anyhow!(errors.map(|error| described(&error)).collect::<Vec<_>>().join("\n"))
}
