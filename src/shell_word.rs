//! Words of a command as a POSIX shell reads them.

/// The word that a shell reads as exactly this text, quoted only where it must be.
pub fn quoted(text: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+=:,@%".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::quoted;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in [
            "plain",
            "",
            "two words",
            "it's",
            "$HOME `id` \\ \"x\" * ~",
            "a\nb",
            "-n",
            "ä",
        ] {
            let script = format!("printf %s {}", quoted(text));
            let read = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(read.stdout).unwrap(), text);
        }
        assert_eq!(quoted("models/a-b_c.gguf"), "models/a-b_c.gguf");
    }
}
