//! The words of a user's own command.

use super::launched::{Assignment, HOST};

/// Stands for `on` or `off`: whether caches of earlier prompts may be kept.
const PROMPT_CACHE: &str = "{prompt-cache}";

/// Whether a command has a way to turn caches of prompts off.
pub(super) fn can_turn_cache_off(words: &[String]) -> bool {
    words.iter().any(|word| word.contains(PROMPT_CACHE))
}

/// A word of a command with what is known only at the start.
pub(super) fn filled_in(word: &str, assignment: Assignment) -> String {
    let context = assignment.request.context_length * assignment.request.parallel;
    word.replace("{host}", HOST)
        .replace("{port}", &assignment.port.to_string())
        .replace("{context}", &context.to_string())
        .replace(PROMPT_CACHE, if assignment.request.prompt_cache { "on" } else { "off" })
        // Last, since a path may have braces of its own.
        .replace("{model}", assignment.model)
}

#[cfg(test)]
mod tests {
    use super::{Assignment, filled_in};
    use crate::compare::servers::LoadRequest;

    #[test]
    fn what_is_known_at_the_start_is_filled_into_the_command() {
        let request = LoadRequest {
            context_length: 512,
            parallel: 4,
            prompt_cache: false,
        };
        let assignment = Assignment {
            model: "{port}.gguf",
            port: 8123,
            request: &request,
        };
        let word = filled_in("--at={host}:{port},{context},{prompt-cache},{model}", assignment);
        assert_eq!(word, "--at=127.0.0.1:8123,2048,off,{port}.gguf");
    }
}
