use std::collections::BTreeMap;

use thiserror::Error;

use crate::shell_word::quoted;
use crate::suggestion::closest;

/// A command names a placeholder that there is not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no placeholder `{{{name}}}`\n  expected: {known}{}", suggestion.as_deref().map_or_else(String::new, |name| format!("\n  hint: did you mean `{{{name}}}`?")))]
pub struct TemplateError {
    /// The name.
    pub name: String,
    /// Every name that there is.
    pub known: String,
    /// The nearest of them.
    pub suggestion: Option<String>,
}

/// A command line for `sh` with placeholders such as `{model}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub String);

impl Template {
    /// Whether every placeholder is one of `known`.
    ///
    /// # Errors
    /// One is not.
    pub fn check(&self, known: &[&'static str]) -> Result<(), TemplateError> {
        let values = known.iter().map(|&name| (name, String::new())).collect();
        self.fill(&values).map(drop)
    }

    /// The command with every placeholder replaced by its value, quoted for `sh`.
    ///
    /// Braces that hold anything but a lower-case name are the shell's own.
    ///
    /// # Errors
    /// A placeholder has no value.
    pub fn fill(&self, values: &BTreeMap<&'static str, String>) -> Result<String, TemplateError> {
        let mut command = String::new();
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            command.push_str(before);
            let name = after.split_once('}').filter(|(name, _)| is_name(name));
            // `${name}` is a variable of the shell.
            let Some((name, behind)) = name.filter(|_| !before.ends_with('$')) else {
                command.push('{');
                rest = after;
                continue;
            };
            let value = values.get(name).ok_or_else(|| TemplateError {
                name: name.to_owned(),
                known: values
                    .keys()
                    .map(|name| format!("`{{{name}}}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                suggestion: closest(name, values.keys().copied()).map(str::to_owned),
            })?;
            command.push_str(&quoted(value));
            rest = behind;
        }
        command.push_str(rest);
        Ok(command)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|character| character.is_ascii_lowercase() || character == '_')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Template;

    fn filled(template: &str) -> String {
        let values = BTreeMap::from([("model", "my model".to_owned()), ("data", "it's".to_owned())]);
        Template(template.to_owned())
            .fill(&values)
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn values_arrive_as_one_word() {
        assert_eq!(
            filled("train {model} --data={data}"),
            r"train 'my model' --data='it'\''s'"
        );
    }

    #[test]
    fn braces_of_the_shell_stay() {
        assert_eq!(
            filled("a ${HOME} {1..3} { b; } ${model}"),
            "a ${HOME} {1..3} { b; } ${model}"
        );
    }

    #[test]
    fn an_unknown_placeholder_is_named_with_its_neighbour() {
        let error = filled("train {modell}");
        assert!(
            error.contains("no placeholder `{modell}`") && error.contains("did you mean `{model}`"),
            "{error}"
        );
    }
}
