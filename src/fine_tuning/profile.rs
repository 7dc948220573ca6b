use thiserror::Error;

use super::configuration::{Configuration, Origin};
use crate::model::Problem;
use crate::suggestion::closest;

/// The profiles by name: settings for a purpose, with the reason for each in the file.
pub const PROFILES: [(&str, &str); 4] = [
    ("chat", include_str!("../../config/profiles/chat.yml")),
    ("instruct", include_str!("../../config/profiles/instruct.yml")),
    ("code", include_str!("../../config/profiles/code.yml")),
    ("creative", include_str!("../../config/profiles/creative.yml")),
];

/// There is no such profile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no profile `{name}`\n  expected: {}{}", names(), hint(name))]
pub struct UnknownProfile {
    /// The name as given.
    pub name: String,
}

/// Why a profile gives no settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// It does not exist.
    #[error(transparent)]
    Unknown(#[from] UnknownProfile),
    /// Its file, which the program carries, is broken.
    #[error("profile `{name}` cannot be read: {problem}")]
    Broken {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: Problem,
    },
}

/// The settings of the profile `name`.
pub fn profile(name: &str) -> Result<Configuration, ProfileError> {
    let (known, text) = PROFILES
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| UnknownProfile { name: name.to_owned() })?;
    Configuration::parse(text, |_| Origin::Profile(known.to_owned())).map_err(|problem| ProfileError::Broken {
        name: known.to_owned(),
        problem,
    })
}

fn names() -> String {
    PROFILES.map(|(name, _)| name).join(", ")
}

fn hint(name: &str) -> String {
    closest(name, PROFILES.map(|(known, _)| known))
        .map_or_else(String::new, |known| format!("\n  hint: did you mean `{known}`?"))
}
