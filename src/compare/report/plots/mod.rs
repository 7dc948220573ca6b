//! What was measured as pictures: SVG that needs no font, no script and no other file, for light pages and dark ones.

mod concurrency;
mod context;
mod first_token;
mod leak;
mod lettering;
mod memory;
mod panel;
mod phases;
mod requests;
mod sheet;
mod thresholds;

use std::collections::BTreeSet;

pub use sheet::{Drawn, Plot};

use super::order::scenarios;
use crate::compare::Record;
use crate::compare::analysis::{Analysis, PairAnalysis, Samples};

/// Letters of a pair's or a scenario's name that its files are called after.
const FILE_NAME: usize = 40;

/// Every picture of one pair, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct PairPlots {
    /// Time to first token of every answer.
    pub first_token: Drawn,
    /// Speed by the length of the prompt.
    pub context: Drawn,
    /// Speed by requests at one time, one picture for each scenario that varies it.
    pub concurrency: Vec<Drawn>,
    /// Memory over time, one picture for each scenario.
    pub memory: Vec<Drawn>,
    /// Memory by request.
    pub leak: Drawn,
}

impl PairPlots {
    /// The pictures that there are.
    pub fn drawn(&self) -> impl Iterator<Item = &Plot> {
        let one = [&self.first_token, &self.context, &self.leak];
        let all = one.into_iter().chain(&self.concurrency).chain(&self.memory);
        all.filter_map(|drawn| drawn.as_ref().ok())
    }
}

/// The pictures of every pair, in the order of the analysis.
pub fn plots(record: &Record, samples: &Samples, analysis: &Analysis) -> Vec<PairPlots> {
    let mut taken = BTreeSet::new();
    analysis
        .pairs
        .iter()
        .map(|pair| {
            let stem = unique(&safe(&pair.pair), &mut taken);
            pair_plots(record, samples, pair, &stem)
        })
        .collect()
}

fn pair_plots(record: &Record, samples: &Samples, pair: &PairAnalysis, stem: &str) -> PairPlots {
    let mut taken = BTreeSet::new();
    let mut by_scenario = |what: &str, draw: &dyn Fn(&str, String) -> Option<Drawn>| -> Vec<Drawn> {
        let drawn = scenarios(record).into_iter().filter_map(|scenario| {
            let name = unique(&format!("{stem}-{what}-{}", safe(scenario)), &mut taken);
            draw(scenario, file(&name))
        });
        drawn.collect()
    };
    let memory = by_scenario("memory", &|scenario, file| {
        memory::plot(record, samples, &pair.pair, scenario, file)
    });
    let concurrency = by_scenario("concurrency", &|scenario, file| {
        concurrency::plot(record, &pair.pair, scenario, file)
    });
    PairPlots {
        first_token: first_token::plot(record, &pair.pair, file(&format!("{stem}-first-token"))),
        context: context::plot(record, &pair.pair, file(&format!("{stem}-context"))),
        leak: leak::plot(pair, file(&format!("{stem}-leak"))),
        memory: or_why(memory, "Memory over time is not drawn: no sample of memory was taken."),
        concurrency: or_why(
            concurrency,
            "Speed against requests at one time is not drawn: no scenario had answers at several such numbers.",
        ),
    }
}

fn or_why(drawn: Vec<Drawn>, why: &str) -> Vec<Drawn> {
    if drawn.is_empty() {
        vec![Err(why.to_owned())]
    } else {
        drawn
    }
}

fn file(name: &str) -> String {
    format!("plots/{name}.svg")
}

/// A name that every file system takes: lower-case letters, digits and hyphens.
fn safe(name: &str) -> String {
    let letters = name.chars().map(|character| match character {
        'a'..='z' | '0'..='9' => character,
        'A'..='Z' => character.to_ascii_lowercase(),
        _ => '-',
    });
    let words: String = letters.collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(FILE_NAME).collect();
    match name.trim_end_matches('-') {
        "" => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

/// The name, with a number where another one is called so already.
fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut free = name.to_owned();
    let mut number = 1;
    while !taken.insert(free.clone()) {
        number += 1;
        free = format!("{name}-{number}");
    }
    free
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{safe, unique};

    #[test]
    fn files_have_names_that_every_file_system_takes() {
        for (name, expected) in [
            ("SmolLM2", "smollm2"),
            ("../../etc/passwd", "etc-passwd"),
            ("Llama 3.3 70B <Q6_K>", "llama-3-3-70b-q6-k"),
            ("模型", "unnamed"),
            ("", "unnamed"),
        ] {
            assert_eq!(safe(name), expected);
        }
        assert!(safe(&"long name ".repeat(40)).len() <= 40);
    }

    #[test]
    fn two_names_that_look_alike_get_two_files() {
        let mut taken = BTreeSet::new();
        let names: Vec<String> = ["a", "a", "a-2", "a"]
            .iter()
            .map(|name| unique(name, &mut taken))
            .collect();
        assert_eq!(names, ["a", "a-2", "a-2-2", "a-3"]);
    }
}
