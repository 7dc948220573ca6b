//! What is measured of a training run, against logits read by hand, mlx-lm, closed forms and faults of the test's own.

use std::collections::BTreeMap;

use approx::assert_relative_eq;
use mlx_diagnose::adapter::{LoraSettings, attach};
use mlx_diagnose::data::{Batch, Dataset, ExampleSettings, RecordFile, Supervision};
use mlx_diagnose::evidence::{GradientCheck, LossReading, OptimizerCheck, ReadLoss, Slot, UpdateReading};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::{CausalModel, ModelSource, StopSet, Tokenizer};
use mlx_diagnose::probes::gradient_check::GradientRecorder;
use mlx_diagnose::probes::next_token::NextTokens;
use mlx_diagnose::probes::optimizer_recorder::OptimizerRecorder;
use mlx_diagnose::probes::{fit, loss_check, optimizer_replay, pairing, validation};
use mlx_diagnose::train::{
    AdamW, AdamWSettings, Lanes, LossAndGradients, Optimizer, Schedule, TrainSettings, Trainer, loss_and_gradients,
    mean_loss,
};
use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::multiply;
use rstest::rstest;

use crate::support::golden::{EXACT_PRECISION, golden, ids, root, tiny};

const LEARNING_RATE: f64 = 1e-4;

fn embedded() -> CausalModel {
    let folder = root().join("fixtures/embedded/model");
    ModelSource::Folder(folder).load(EXACT_PRECISION).unwrap().model
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&root().join("fixtures/embedded/model")).unwrap()
}

fn dataset(name: &str, mask_prompt: bool) -> Dataset {
    let records = RecordFile::read(&root().join("fixtures/embedded").join(name).join("train.jsonl")).unwrap();
    let settings = ExampleSettings {
        supervision: Supervision::of_mask_prompt(mask_prompt),
        max_sequence_length: 128,
    };
    Dataset::new(&records, &tokenizer(), settings).unwrap()
}

fn stop_ids() -> Vec<u32> {
    StopSet::of(&tokenizer()).unwrap().ids()
}

/// Log-probabilities of the whole vocabulary at every position of `tokens`, in f64 from the logits.
fn log_probabilities(model: &CausalModel, tokens: &[i32]) -> Vec<Vec<f64>> {
    let input = Array::from_slice(tokens, &[1, tokens.len() as i32]);
    let logits = model.logits(&input).unwrap().contiguous().unwrap();
    let vocabulary = logits.dim(-1) as usize;
    logits
        .to_vec_exact::<f32>()
        .unwrap()
        .chunks(vocabulary)
        .map(|row| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
            row.iter().map(|&logit| f64::from(logit - largest) - sum.ln()).collect()
        })
        .collect()
}

fn loss_of(readings: &[ReadLoss], reading: LossReading) -> f64 {
    readings
        .iter()
        .find(|read| read.reading == reading)
        .and_then(|read| read.loss)
        .unwrap()
}

/// Rows of different lengths and what the model says at each of their positions, padding included.
fn padded_batch(model: &CausalModel) -> (Batch, Vec<Vec<Vec<f64>>>) {
    let batch = Batch::new(&dataset("voice", true).examples, &[0, 1, 5]);
    assert!(batch.lengths.iter().any(|&length| length + 1 < batch.columns));
    let probabilities = batch
        .tokens
        .chunks(batch.columns)
        .map(|row| log_probabilities(model, row))
        .collect();
    (batch, probabilities)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn every_reading_of_a_loss_is_what_the_logits_give() {
    let model = embedded();
    let (batch, probabilities) = padded_batch(&model);
    let tokens = NextTokens::read(&model, &batch, &stop_ids(), &Lanes::on_cpu(2)).unwrap();
    let readings = loss_check::readings(&tokens, &batch);
    // The loss of the token at `column` as predicted at `position`.
    let loss = |row: usize, position: usize, column: usize| {
        -probabilities[row][position][batch.tokens[row * batch.columns + column] as usize]
    };
    let all: Vec<(usize, usize)> = (0..batch.rows.len())
        .flat_map(|row| (1..batch.columns).map(move |column| (row, column)))
        .collect();
    let real = |&&(row, column): &&(usize, usize)| column < batch.lengths[row];
    let counted = |&&(row, column): &&(usize, usize)| batch.mask[row * batch.columns + column] > 0.0;
    let next = |&(row, column): &(usize, usize)| loss(row, column - 1, column);
    let sum: f64 = all.iter().filter(counted).map(next).sum();
    let expected = [
        (LossReading::Definition, mean(all.iter().filter(counted).map(next))),
        (
            LossReading::NotShifted,
            mean(
                all.iter()
                    .filter(counted)
                    .map(|&(row, column)| loss(row, column, column)),
            ),
        ),
        (
            LossReading::ShiftedTwice,
            mean(
                all.iter()
                    .filter(counted)
                    .map(|&(row, column)| loss(row, column - 2, column)),
            ),
        ),
        (LossReading::PromptsToo, mean(all.iter().filter(real).map(next))),
        (
            LossReading::PaddingToo,
            mean(all.iter().filter(|place| counted(place) || !real(place)).map(next)),
        ),
        (
            LossReading::OnePaddingToo,
            mean(
                all.iter()
                    .filter(|place| counted(place) || place.1 == batch.lengths[place.0])
                    .map(next),
            ),
        ),
        (
            LossReading::MeanOfRowMeans,
            mean(
                (0..batch.rows.len())
                    .map(|wanted| mean(all.iter().filter(|place| place.0 == wanted).filter(counted).map(next))),
            ),
        ),
        (LossReading::DividedByAllTokens, sum / batch.tokens.len() as f64),
    ];
    assert_eq!(expected.len(), readings.len());
    for (reading, value) in expected {
        assert_relative_eq!(loss_of(&readings, reading), value, max_relative = 1e-5);
    }
}

#[test]
fn the_definition_is_the_loss_of_mlx_lm() {
    let golden = golden("tiny/llama/golden.json");
    let model = ModelSource::Folder(tiny("llama")).load(EXACT_PRECISION).unwrap().model;
    let tokens: Vec<i32> = ids(&golden["input_ids"]).iter().map(|&id| id as i32).collect();
    let mut mask = vec![1.0; tokens.len()];
    mask[0] = 0.0;
    let batch = Batch {
        rows: vec![0],
        columns: tokens.len(),
        lengths: vec![tokens.len()],
        tokens,
        mask,
        documents: None,
    };
    let readings = loss_check::readings(
        &NextTokens::read(&model, &batch, &[], &Lanes::on_cpu(2)).unwrap(),
        &batch,
    );
    assert_relative_eq!(
        loss_of(&readings, LossReading::Definition),
        golden["loss"].as_f64().unwrap(),
        max_relative = 1e-5
    );
}

#[test]
fn the_fit_is_what_the_logits_give() {
    let model = embedded();
    let (batch, probabilities) = padded_batch(&model);
    let stop_ids = stop_ids();
    let fit = fit::measure(
        &NextTokens::read(&model, &batch, &stop_ids, &Lanes::on_cpu(2)).unwrap(),
        &batch,
        &stop_ids,
    );
    let mut at_end = Vec::new();
    let mut elsewhere = Vec::new();
    let mut ranks = Vec::new();
    let mut agreeing = [0.0; 3];
    let mut positions = 0.0;
    for (row, &length) in batch.lengths.iter().enumerate() {
        let token = |column: usize| batch.tokens[row * batch.columns + column] as usize;
        let is_stop = |column: usize| stop_ids.contains(&(token(column) as u32));
        for column in 1..length {
            let before = &probabilities[row][column - 1];
            let stops: f64 = stop_ids.iter().map(|&id| before[id as usize].exp()).sum();
            let others: f64 = before.iter().map(|value| value.exp()).sum::<f64>() - stops;
            let odds = (stops / others).ln();
            if is_stop(column) && column + 2 >= length {
                at_end.push(odds);
                ranks.push(1.0 + before.iter().filter(|&&value| value > before[token(column)]).count() as f64);
            } else if !is_stop(column) && batch.mask[row * batch.columns + column] > 0.0 {
                elsewhere.push(odds);
            }
        }
        for (column, here) in probabilities[row].iter().enumerate().take(length - 2) {
            positions += 1.0;
            let likeliest = (0..here.len())
                .max_by(|&left, &right| here[left].total_cmp(&here[right]))
                .unwrap();
            for (offset, count) in agreeing.iter_mut().enumerate() {
                *count += f64::from(u8::from(likeliest == token(column + offset)));
            }
        }
    }
    assert_eq!(at_end.len(), batch.rows.len());
    // Near certainty f32 hardly tells the probability from 1.
    assert_relative_eq!(fit.end_log_odds.unwrap(), mean(at_end), max_relative = 0.05);
    assert_relative_eq!(fit.elsewhere_log_odds.unwrap(), mean(elsewhere), max_relative = 1e-4);
    assert_relative_eq!(fit.end_rank.unwrap(), mean(ranks));
    for (found, expected) in fit.offset_agreement.iter().zip(agreeing) {
        assert_relative_eq!(*found, expected / positions);
    }
    assert_eq!(fit.activation_dtype, "float32");
}

#[test]
fn true_answers_need_their_prompts_and_their_order() {
    let fit = pairing::measure(&embedded(), &dataset("voice", true).examples, &Lanes::on_cpu(2))
        .unwrap()
        .unwrap();
    assert!(fit.rows >= 5, "{fit:?}");
    assert!(fit.other - fit.own > 0.5, "{fit:?}");
    assert!(fit.order_gain > 3.0, "{fit:?}");
}

#[test]
fn answers_moved_by_one_row_need_no_prompt() {
    let mut dataset = dataset("voice", true);
    let answers: Vec<Vec<u32>> = dataset
        .examples
        .iter()
        .map(|example| example.targets().collect())
        .collect();
    let count = answers.len();
    for (row, example) in dataset.examples.iter_mut().enumerate() {
        let first = example.supervised.iter().position(|&supervised| supervised).unwrap();
        // Half the data away, where nothing is about the same person.
        let answer = &answers[(row + count / 2) % count];
        example.tokens.truncate(first);
        example.tokens.extend(answer);
        example.supervised = (0..example.tokens.len()).map(|column| column >= first).collect();
    }
    let fit = pairing::measure(&embedded(), &dataset.examples, &Lanes::on_cpu(2))
        .unwrap()
        .unwrap();
    assert!(fit.other - fit.own < 0.4, "{fit:?}");
    assert!(fit.order_gain > 3.0, "{fit:?}");
}

#[test]
fn rows_without_prompts_are_not_exchanged() {
    let examples = dataset("voice", false).examples;
    assert_eq!(
        pairing::measure(&embedded(), &examples, &Lanes::on_cpu(2)).unwrap(),
        None
    );
}

#[test]
fn the_validation_loss_is_that_of_the_first_rows() {
    const TOKENS: usize = 192;
    let model = embedded();
    let examples = dataset("voice", true).examples;
    let found = validation::loss(&model, &examples, TOKENS, &Lanes::on_cpu(2))
        .unwrap()
        .unwrap();
    let mut tokens = 0;
    let fitting = examples.iter().take_while(|example| {
        tokens += example.tokens.len();
        tokens <= TOKENS
    });
    let rows: Vec<usize> = (0..fitting.count()).collect();
    assert!((2..examples.len()).contains(&rows.len()), "{rows:?}");
    let batch = Batch::new(&examples, &rows);
    assert_relative_eq!(
        found,
        mean_loss(&model, &batch, &Lanes::single()).unwrap(),
        max_relative = 1e-6
    );
    assert_eq!(validation::loss(&model, &[], TOKENS, &Lanes::on_cpu(2)).unwrap(), None);
}

/// Changes what the backward pass returns at a step, given all passes so far.
type Change = fn(&mut [BTreeMap<String, Array>]) -> MlxResult<()>;

/// Trains the embedded model for three steps and returns what its gradients and its optimizer look like.
fn trained(
    change: Change,
    optimizer: &mut dyn Optimizer,
    dtype: mlx_rs::Dtype,
) -> (Slot<GradientCheck>, OptimizerCheck) {
    const STEPS: usize = 3;
    let mut model = ModelSource::Folder(root().join("fixtures/embedded/model"))
        .load(mlx_diagnose::model::Precision {
            dtype,
            keep_packed: false,
        })
        .unwrap()
        .model;
    attach(&mut model, &LoraSettings::default(), 0).unwrap();
    let examples = dataset("voice", true).examples;
    let gradients = std::cell::RefCell::new(GradientRecorder::new(STEPS));
    let passes = std::cell::RefCell::new(Vec::new());
    let mut recorder = OptimizerRecorder::new(optimizer);
    let mut batches = (0..STEPS).map(|step| Batch::new(&examples, &[2 * step, 2 * step + 1]));
    Trainer {
        optimizer: &mut recorder,
        loss: &|model, batch, lanes| {
            let pass = loss_and_gradients(model, batch, lanes)?;
            let mut passes = passes.borrow_mut();
            passes.push(pass.gradients);
            change(&mut passes)?;
            let pass = LossAndGradients {
                loss: pass.loss,
                gradients: passes.last().cloned().unwrap_or_default(),
            };
            gradients.borrow_mut().record(model, batch, &pass);
            Ok(pass)
        },
        lanes: Lanes::single(),
        others: None,
        settings: TrainSettings {
            steps: STEPS,
            schedule: Schedule::constant(LEARNING_RATE),
            clip_norm: None,
        },
        interrupt: &Interrupt::default(),
    }
    .train(&mut model, &mut batches, &mut |_, _| Ok(()))
    .unwrap();
    let recording = recorder.finish();
    match optimizer_replay::check(&recording, AdamWSettings::default()) {
        Slot::Ran(check) => (
            gradients.into_inner().measure(&model, &Lanes::on_cpu(2)).unwrap(),
            check,
        ),
        other => panic!("{other:?}"),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a change like the others")]
fn unchanged(_: &mut [BTreeMap<String, Array>]) -> MlxResult<()> {
    Ok(())
}

fn scaled(passes: &mut [BTreeMap<String, Array>], factor: f32) -> MlxResult<()> {
    for gradient in passes.iter_mut().rev().take(1).flat_map(BTreeMap::values_mut) {
        *gradient = multiply(&*gradient, Array::from_f32(factor))?;
    }
    Ok(())
}

fn doubled(passes: &mut [BTreeMap<String, Array>]) -> MlxResult<()> {
    scaled(passes, 2.0)
}

fn negated(passes: &mut [BTreeMap<String, Array>]) -> MlxResult<()> {
    scaled(passes, -1.0)
}

fn added_up(passes: &mut [BTreeMap<String, Array>]) -> MlxResult<()> {
    if let [.., previous, last] = passes {
        for (name, gradient) in last {
            *gradient = gradient.add(&previous[name])?;
        }
    }
    Ok(())
}

fn ran(check: Slot<GradientCheck>) -> GradientCheck {
    match check {
        Slot::Ran(check) => check,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::right(unchanged, 1.0)]
#[case::doubled(doubled, 0.5)]
#[case::negated(negated, -1.0)]
fn the_loss_has_the_slope_of_its_gradient_and_no_other(#[case] change: Change, #[case] ratio: f64) {
    let optimizer = &mut AdamW::new(AdamWSettings::default());
    let check = ran(trained(change, optimizer, mlx_rs::Dtype::Float32).0);
    assert_eq!(check.step, 3);
    let measured = check.reported.measured.unwrap();
    assert_relative_eq!(measured, ratio * check.reported.predicted, max_relative = 5e-3);
    assert!(check.resolution < 0.01 * measured.abs(), "{check:?}");
}

#[test]
fn gradients_that_add_up_are_right_since_the_step_before() {
    let optimizer = &mut AdamW::new(AdamWSettings::default());
    let check = ran(trained(added_up, optimizer, mlx_rs::Dtype::Float32).0);
    let since = check.since_previous.unwrap();
    assert_relative_eq!(since.measured.unwrap(), since.predicted, max_relative = 5e-3);
    let off = (check.reported.measured.unwrap() / check.reported.predicted - 1.0).abs();
    assert!(off > 0.05, "{off}");
}

#[test]
fn slopes_of_16_bits_agree_within_their_resolution() {
    let optimizer = &mut AdamW::new(AdamWSettings::default());
    let (gradients, updates) = trained(unchanged, optimizer, mlx_rs::Dtype::Bfloat16);
    let check = ran(gradients);
    let measured = check.reported.measured.unwrap();
    let distance = (measured - check.reported.predicted).abs();
    assert!(distance < check.resolution + 0.25 * measured, "{check:?}");
    assert!(updates.error(UpdateReading::AsConfigured).unwrap() < 0.1, "{updates:?}");
}

#[test]
fn the_optimizer_of_the_program_makes_the_replayed_updates() {
    let mut optimizer = AdamW::new(AdamWSettings::default());
    let (_, check) = trained(unchanged, &mut optimizer, mlx_rs::Dtype::Float32);
    assert!(check.error(UpdateReading::AsConfigured).unwrap() < 1e-6, "{check:?}");
    assert_relative_eq!(check.factor.unwrap(), 1.0, max_relative = 1e-4);
    assert_eq!((check.steps, check.coordinates), (3, 64));
    for read in &check.readings {
        let contains_it = [
            UpdateReading::AsConfigured,
            UpdateReading::Scaled,
            UpdateReading::Decayed,
            UpdateReading::LargeEpsilon,
        ];
        assert_eq!(
            read.error.unwrap() < 0.1,
            contains_it.contains(&read.reading),
            "{read:?}"
        );
    }
}

#[test]
fn the_first_step_of_adam_without_bias_correction_is_the_root_of_ten_times_the_learning_rate() {
    let mut inner = AdamW::new(AdamWSettings {
        weight_decay: 0.0,
        ..AdamWSettings::default()
    });
    let mut recorder = OptimizerRecorder::new(&mut inner);
    let mut parameters = BTreeMap::from([("w".to_owned(), Array::from_slice(&[0.0_f32, 0.0], &[2]))]);
    let gradients = BTreeMap::from([("w".to_owned(), Array::from_slice(&[0.3_f32, -4.0], &[2]))]);
    recorder.update(&mut parameters, &gradients, LEARNING_RATE).unwrap();
    let recording = recorder.finish();
    let changes: Vec<f64> = recording.updates[0]
        .coordinates
        .iter()
        .map(|coordinate| coordinate.after - coordinate.before)
        .collect();
    let expected = 10.0_f64.sqrt() * LEARNING_RATE;
    assert_relative_eq!(changes[0], -expected, max_relative = 1e-5);
    assert_relative_eq!(changes[1], expected, max_relative = 1e-5);
}

#[test]
fn a_gradient_that_comes_and_goes_is_followed_only_until_it_goes() {
    let mut inner = AdamW::new(AdamWSettings::default());
    let mut recorder = OptimizerRecorder::new(&mut inner);
    let mut parameters = BTreeMap::from([("w".to_owned(), Array::from_slice(&[0.5_f32], &[1]))]);
    let gradients = BTreeMap::from([("w".to_owned(), Array::from_slice(&[0.3_f32], &[1]))]);
    for gradients in [&gradients, &BTreeMap::new(), &gradients] {
        recorder.update(&mut parameters, gradients, LEARNING_RATE).unwrap();
    }
    assert_eq!(recorder.finish().updates.len(), 1);
}
