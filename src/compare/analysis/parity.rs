//! Whether both formats hold the same model: probabilities of the same words of one text.

use std::collections::BTreeMap;

use super::comparison::better;
use super::statistics::{mean_interval, median};
use super::thresholds::{MARGIN, PARITY_NATS, PARITY_SHARE, VALUES_FOR_INTERVAL};
use super::wording::{counted, figures};
use super::{Comparison, Ratio, Summary};
use crate::compare::{Figure, Format, TestRecord, Unit};

/// The scenario.
pub(super) const QUALITY: &str = "quality";
/// Which positions the others speak of; no measure by itself.
pub(super) const POSITION: &str = "position";
const LOG_PROBABILITY: &str = "log-probability";
const TOP_LOG_PROBABILITY: &str = "top-log-probability";
const TOP_IS_NEXT_WORD: &str = "top-is-next-word";
const NOT_LISTED: &str = "position-not-listed";

/// What people call the figures of this scenario.
pub(super) fn title(figure: &Figure) -> Option<&'static str> {
    match figure.name.as_str() {
        LOG_PROBABILITY => Some("Log-probability of the text's next word"),
        TOP_LOG_PROBABILITY => Some("Log-probability of the likeliest token"),
        TOP_IS_NEXT_WORD => Some("Positions whose likeliest token is the text's next word"),
        NOT_LISTED => Some("Positions whose word a format does not list"),
        _ => None,
    }
}

/// What a format says at a position.
#[derive(Debug, Clone, Copy)]
struct Said {
    log_probability: f64,
    likeliest_is_next: bool,
}

/// What both formats say at the positions that both list.
pub(super) struct Parity {
    common: Vec<[Said; 2]>,
    /// Positions that one format alone lists.
    alone: usize,
}

impl Parity {
    /// `None` where no position is known of both.
    pub(super) fn of(tests: &[&TestRecord]) -> Option<Self> {
        let [gguf, mlx] = Format::ALL.map(|format| positions(tests, format));
        let common: Vec<[Said; 2]> = gguf
            .iter()
            .filter_map(|(position, gguf)| Some([*gguf, *mlx.get(position)?]))
            .collect();
        let alone = gguf.len() + mlx.len() - 2 * common.len();
        (!common.is_empty()).then_some(Self { common, alone })
    }

    /// Of MLX's log-probabilities from GGUF's.
    fn differences(&self) -> Vec<f64> {
        let difference = |[gguf, mlx]: &[Said; 2]| mlx.log_probability - gguf.log_probability;
        self.common.iter().map(difference).collect()
    }

    /// The perplexity of the same words, and how far their log-probabilities are apart.
    pub(super) fn comparisons(&self, seed: u64) -> Vec<Comparison> {
        self.perplexity(seed).into_iter().chain([self.distance()]).collect()
    }

    fn perplexity(&self, seed: u64) -> Option<Comparison> {
        let behind: Vec<f64> = self.differences().into_iter().map(|difference| -difference).collect();
        let mean = mean_interval(&behind, seed)?;
        let ends = [mean.low, mean.high].map(f64::exp);
        let ratio = Ratio {
            estimate: mean.estimate.exp(),
            interval: (behind.len() >= VALUES_FOR_INTERVAL).then_some(ends),
        };
        let perplexity = |side: usize| {
            let values: Vec<f64> = self.common.iter().map(|said| said[side].log_probability).collect();
            Summary::of(&[(-Summary::of(&values)?.mean).exp()])
        };
        Some(Comparison {
            scenario: QUALITY.to_owned(),
            measure: "perplexity".to_owned(),
            title: "Perplexity of the same words: exp(\u{2212}mean log-probability)".to_owned(),
            unit: Unit::Count,
            more_is_better: Some(false),
            gguf: perplexity(0),
            mlx: perplexity(1),
            ratio: Some(ratio),
            better: better(ends, false, MARGIN),
        })
    }

    /// Stands on the side of MLX, since it is one number for both.
    fn distance(&self) -> Comparison {
        let distances: Vec<f64> = self.differences().into_iter().map(f64::abs).collect();
        Comparison {
            scenario: QUALITY.to_owned(),
            measure: "log-probability-difference".to_owned(),
            title: "Difference of log-probabilities between the formats at a position".to_owned(),
            unit: Unit::Nats,
            more_is_better: None,
            gguf: None,
            mlx: Summary::of(&distances),
            ratio: None,
            better: None,
        }
    }

    /// The median distance of log-probabilities in nats.
    fn median_distance(&self) -> f64 {
        let distances: Vec<f64> = self.differences().into_iter().map(f64::abs).collect();
        // There is a position.
        median(&distances).unwrap_or(f64::NAN)
    }

    /// Share of positions at which both have the next word as the likeliest token, or neither has.
    fn agreement(&self) -> f64 {
        let agree = |said: &&[Said; 2]| said[0].likeliest_is_next == said[1].likeliest_is_next;
        self.common.iter().filter(agree).count() as f64 / self.common.len() as f64
    }

    /// Whether they are close enough for the rest of a comparison to be one of formats.
    fn holds(&self) -> bool {
        self.median_distance() <= PARITY_NATS && self.agreement() >= PARITY_SHARE
    }

    fn numbers(&self) -> String {
        format!(
            "at half of {} places of a text the probabilities of the next word differ by more than a factor of {}, and at {:.0}% \
             of them the word is the likeliest with both formats or with neither",
            self.common.len(),
            figures(self.median_distance().exp()),
            100.0 * self.agreement()
        )
    }

    /// A sentence for those who ask whether the comparison is fair, where it is.
    pub(super) fn reason(&self) -> Option<String> {
        self.holds().then(|| {
            format!(
                "both formats give the words of a text nearly the same probabilities: {}",
                self.numbers()
            )
        })
    }

    /// Why it is not.
    pub(super) fn warnings(&self) -> Vec<String> {
        let apart = (!self.holds()).then(|| {
            format!(
                "the formats do not hold the same model, or one of them computes it wrongly: {}",
                self.numbers()
            )
        });
        let alone = (self.alone > 0).then(|| {
            let positions = counted(self.alone, "position");
            format!("left out of perplexities: {positions} of the text, whose next word one format alone lists")
        });
        apart.into_iter().chain(alone).collect()
    }
}

/// What a format says by position; of several rounds, which say the same, the first.
fn positions(tests: &[&TestRecord], format: Format) -> BTreeMap<u64, Said> {
    let mut found = BTreeMap::new();
    for test in tests {
        if test.key.scenario != QUALITY || test.key.format != format {
            continue;
        }
        let values = |name: &str| {
            let figure = test.figures.iter().find(|figure| figure.name == name);
            figure.map_or(&[][..], |figure| figure.values.as_slice())
        };
        let said = values(LOG_PROBABILITY).iter().zip(values(TOP_IS_NEXT_WORD));
        for (position, (log_probability, likeliest_is_next)) in values(POSITION).iter().zip(said) {
            found.entry(position.to_bits()).or_insert(Said {
                log_probability: *log_probability,
                likeliest_is_next: *likeliest_is_next > 0.5,
            });
        }
    }
    found
}
