/// The line that mlx-lm prints before and after an answer unless it is told `--verbose False`.
const RULE: &str = "==========";
/// What mlx-lm prints in the place of an empty answer.
const EMPTY: &str = "No text generated for this prompt";

/// The answer within what a generator printed: all of it, or what mlx-lm sets between two lines.
pub fn answer_in(printed: &str) -> String {
    let printed = console::strip_ansi_codes(printed);
    let answer = framed(&printed).unwrap_or(&printed).trim();
    if answer == EMPTY {
        String::new()
    } else {
        answer.to_owned()
    }
}

/// What stands between the first such line and the last one.
fn framed(printed: &str) -> Option<&str> {
    let (_, rest) = printed.split_once(&format!("{RULE}\n"))?;
    // An empty answer leaves nothing between the two.
    if let Some(after) = rest.strip_prefix(RULE) {
        return after.starts_with('\n').then_some("");
    }
    rest.rsplit_once(&format!("\n{RULE}\n")).map(|(answer, _)| answer)
}

#[cfg(test)]
mod tests {
    use super::answer_in;

    #[test]
    fn a_generator_that_prints_its_answer_alone_is_taken_at_its_word() {
        assert_eq!(answer_in("\nAye, the boat is blue.\n"), "Aye, the boat is blue.");
    }

    #[test]
    fn figures_around_an_answer_of_mlx_lm_are_left_out() {
        let printed = "==========\nAye.\n\nThe boat.\n==========\nPrompt: 12 tokens, 3.1 tokens-per-sec\n\
                       Generation: 4 tokens, 2.0 tokens-per-sec\nPeak memory: 0.6 GB\n";
        assert_eq!(answer_in(printed), "Aye.\n\nThe boat.");
    }

    #[test]
    fn an_answer_that_is_not_there_is_empty() {
        assert_eq!(
            answer_in("==========\n\n==========\nNo text generated for this prompt\n"),
            ""
        );
        assert_eq!(answer_in("No text generated for this prompt\n"), "");
        assert_eq!(answer_in(""), "");
    }
}
