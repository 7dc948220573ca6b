//! How well two formats predict the same text.

use approx::assert_relative_eq;
use mlx_diagnose::compare::{Format, Unit};

use crate::compare::analysis_records::{Made, compared, figure, memory, test};

/// Log-probabilities of one text by position, and whether the likeliest token is the next word there.
fn quality(gguf: &[(u32, f64, bool)], mlx: &[(u32, f64, bool)]) -> Made {
    Made::of(&["quality"]).with_both(|format| {
        let mut test = test("quality", format, 0);
        let own = if format == Format::Gguf { gguf } else { mlx };
        let column = |name: &str, unit: Unit, value: &dyn Fn(&(u32, f64, bool)) -> f64| {
            figure(name, unit, &own.iter().map(value).collect::<Vec<_>>())
        };
        test.figures = vec![
            column("position", Unit::Count, &|said| f64::from(said.0)),
            column("log-probability", Unit::Nats, &|said| said.1),
            column("top-is-next-word", Unit::Share, &|said| f64::from(u8::from(said.2))),
        ];
        (test, vec![memory(0.0, 1)])
    })
}

/// Positions one after the other, with the next word expected at each.
fn said(log_probabilities: &[f64]) -> Vec<(u32, f64, bool)> {
    let positions = (1_u32..).zip(log_probabilities);
    positions.map(|(position, value)| (position, *value, true)).collect()
}

#[test]
fn perplexity_is_that_of_the_mean_log_probability_and_the_lower_is_better() {
    let gguf = [-1.0, -2.0, -3.0, -0.5, -1.5, -2.5, -1.0, -0.5];
    let pair = quality(&said(&gguf), &said(&gguf.map(|value| value - 0.1))).judged();
    let perplexity = compared(&pair, "quality", "perplexity");
    assert_relative_eq!(perplexity.gguf.unwrap().median, 1.5_f64.exp(), max_relative = 1e-12);
    assert_relative_eq!(perplexity.mlx.unwrap().median, 1.6_f64.exp(), max_relative = 1e-12);
    // Each position is compared with itself, so that a constant difference has no noise.
    let ratio = perplexity.ratio.unwrap();
    let [low, high] = ratio.interval.unwrap();
    for end in [low, ratio.estimate, high] {
        assert_relative_eq!(end, 0.1_f64.exp(), max_relative = 1e-12);
    }
    assert_eq!(perplexity.better, Some(Format::Gguf));
    assert_eq!(compared(&pair, "quality", "log-probability").ratio, None);
    let same = quality(&said(&gguf), &said(&gguf)).judged();
    assert_eq!(compared(&same, "quality", "perplexity").better, None);
}

#[test]
fn formats_of_one_model_are_told_from_formats_of_two() {
    let gguf = [-1.0, -2.0, -3.0, -0.5, -1.5];
    let near = quality(&said(&gguf), &said(&gguf.map(|value| value + 0.01))).judged();
    assert_eq!(near.warnings, Vec::<String>::new());
    assert_eq!(
        near.verdict.reasons.last().unwrap(),
        "both formats give the words of a text nearly the same probabilities: at half of 5 places of a text the probabilities of \
         the next word differ by more than a factor of 1.01, and at 100% of them the word is the likeliest with both formats or \
         with neither"
    );
    // A value of one side alone is no missing one: a difference belongs to both.
    assert_eq!(near.not_measured, []);
    let mut far = said(&gguf.map(|value| value - 1.0));
    for position in [0, 1, 3] {
        far[position].2 = false;
    }
    let far = quality(&said(&gguf), &far).judged();
    assert_eq!(
        far.warnings,
        [
            "the formats do not hold the same model, or one of them computes it wrongly: at half of 5 places of a text the \
             probabilities of the next word differ by more than a factor of 2.72, and at 40% of them the word is the likeliest \
             with both formats or with neither"
        ]
    );
}

#[test]
fn a_position_that_one_format_alone_lists_is_left_out_and_told() {
    let gguf = said(&[-1.0, -2.0, -9.0, -3.0]);
    // Every word of MLX's is as likely as GGUF's at the same position; the third is not listed.
    let mlx = vec![gguf[0], gguf[1], gguf[3]];
    let pair = quality(&gguf, &mlx).judged();
    let perplexity = compared(&pair, "quality", "perplexity");
    for side in [perplexity.gguf, perplexity.mlx] {
        assert_relative_eq!(side.unwrap().median, 2.0_f64.exp(), max_relative = 1e-12);
    }
    assert_eq!(
        compared(&pair, "quality", "log-probability-difference")
            .mlx
            .unwrap()
            .maximum,
        0.0
    );
    assert_eq!(
        pair.warnings,
        ["left out of perplexities: 1 position of the text, whose next word one format alone lists"]
    );
    assert!(
        pair.comparisons
            .iter()
            .all(|comparison| comparison.measure != "position")
    );
}
