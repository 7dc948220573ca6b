use std::fmt::Write as _;

use super::{FAMILIES, RULES, Rule, page_of};

/// One Markdown file of the rule book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The file's name, for example `adapter-not-attached.md`.
    pub file: String,
    /// Its text, with a final line break.
    pub text: String,
}

/// The rule book as Markdown: the index `README.md`, then a page for every rule in causal order.
pub fn pages() -> Vec<Page> {
    let mut pages = vec![Page {
        file: "README.md".to_owned(),
        text: index(),
    }];
    pages.extend(RULES.iter().map(|rule| Page {
        file: format!("{}.md", rule.name),
        text: page_of(rule),
    }));
    pages
}

fn index() -> String {
    let mut text = format!(
        "# Rules\n\nThe {} rules that `diagnose` judges a run by, under the part of the run that they are about. \
         `diagnose explain NAME`\nprints the same pages; `diagnose rules --docs docs/rules` writes them.\n",
        RULES.len()
    );
    for family in FAMILIES {
        let mut members: Vec<&Rule> = RULES
            .iter()
            .copied()
            .filter(|rule| rule.family() == family.prefix)
            .collect();
        if members.is_empty() {
            continue;
        }
        members.sort_by_key(|rule| rule.code);
        let _ = write!(
            text,
            "\n## {} ({})\n\n| code | rule | severity | summary |\n| --- | --- | --- | --- |\n",
            family.subject, family.prefix
        );
        for rule in members {
            let _ = writeln!(
                text,
                "| {} | [{name}]({name}.md) | {} | {} |",
                rule.code,
                rule.severity.name(),
                rule.summary,
                name = rule.name
            );
        }
    }
    text
}
