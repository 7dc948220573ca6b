//! The text of every error in the sources, so that a reviewer sees them all and each change of one.

use std::fmt::Write as _;
use std::fs;

use crate::diagnosis::rules::snapshots;
use crate::support::golden::root;
use crate::unit::architecture::sources;

/// Behind these stands the text of an error.
const MARKS: [&str; 3] = ["#[error(", "anyhow!(", "bail!("];

/// The text of the literal that `source` begins with, without the escapes; `None` where it begins with something else.
fn literal(source: &str) -> Option<String> {
    let mut letters = source.trim_start().strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match letters.next()? {
            '"' => return Some(text),
            '\\' => match letters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                '\n' => letters = letters.as_str().trim_start().chars(),
                escaped => text.push(escaped),
            },
            letter => text.push(letter),
        }
    }
}

/// The texts of one file in their order.
fn texts(source: &str) -> Vec<String> {
    let mut places: Vec<usize> = MARKS
        .iter()
        .flat_map(|mark| source.match_indices(mark).map(|(place, mark)| place + mark.len()))
        .collect();
    places.sort_unstable();
    places
        .into_iter()
        .filter_map(|place| literal(&source[place..]))
        .collect()
}

#[test]
fn errors_are_as_they_were_reviewed() {
    let mut page = String::new();
    let mut count = 0;
    for file in sources(&root().join("src")) {
        let texts = texts(&fs::read_to_string(&file).unwrap());
        if texts.is_empty() {
            continue;
        }
        writeln!(page, "# {}\n", file.strip_prefix(root()).unwrap().display()).unwrap();
        for text in texts {
            let headline = text.lines().next().unwrap_or_default();
            assert!(
                !headline.ends_with('.'),
                "{}: `{text}` ends with a period",
                file.display()
            );
            writeln!(page, "{text}\n").unwrap();
            count += 1;
        }
    }
    assert!(count > 300, "the sources were not read: {count} errors");
    snapshots().bind(|| insta::assert_snapshot!("errors", page));
}
