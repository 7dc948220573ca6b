//! Optimizers and schedules against MLX's own (`fixtures/golden/optimizers.json`).

use std::collections::BTreeMap;

use mlx_diagnose::train::{Decay, DecayScope, OptimizerSettings, RestoreError, Schedule, StoredOptimizer};
use mlx_rs::Array;
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::{floats, golden, largest_difference};

/// Difference allowed between parameters near 1 after five updates in f32.
const PARAMETERS: f32 = 2e-6;
/// Difference allowed between learning rates, which MLX computes in f32.
const LEARNING_RATES: f64 = 1e-6;

type Tensors = BTreeMap<String, Array>;

/// The parameters (update 0) or gradients of the script that made the golden file.
fn tensors(golden: &Value, update: u32) -> Tensors {
    let shapes = golden["shapes"].as_object().unwrap().iter();
    let tensor = |(name, shape): (&String, &Value)| {
        let shape: Vec<i32> = floats(shape).into_iter().map(|size| size as i32).collect();
        let value = |index: i32| {
            let angle = 1.0 + 1.7 * f64::from(index) + 0.9 * f64::from(update) + name.len() as f64;
            angle.sin() as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        (name.clone(), Array::from_slice(&values, &shape))
    };
    shapes.map(tensor).collect()
}

fn optimizer(case: &Value) -> Box<dyn StoredOptimizer> {
    let mut settings = OptimizerSettings::named(case["optimizer"].as_str().unwrap()).unwrap();
    for (key, value) in case["settings"].as_object().unwrap() {
        settings.set(key, value).unwrap();
    }
    settings.build(DecayScope::Everything)
}

fn values(array: &Array) -> Vec<f32> {
    array.contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

#[test]
fn every_optimizer_makes_the_updates_of_mlx() {
    let golden = golden("optimizers.json");
    let learning_rate = golden["learning_rate"].as_f64().unwrap();
    let cases = golden["optimizers"].as_array().unwrap();
    let names: std::collections::BTreeSet<&str> = cases.iter().filter_map(|case| case["optimizer"].as_str()).collect();
    assert!(OptimizerSettings::NAMES.iter().all(|name| names.contains(name)));
    for case in cases {
        let mut optimizer = optimizer(case);
        let mut parameters = tensors(&golden, 0);
        for (update, expected) in (1..).zip(case["after"].as_array().unwrap()) {
            let gradients = tensors(&golden, update);
            optimizer.update(&mut parameters, &gradients, learning_rate).unwrap();
            for (name, parameter) in &parameters {
                let difference = largest_difference(&values(parameter), &floats(&expected[name]));
                assert!(
                    difference <= PARAMETERS,
                    "{}, update {update}, {name}: {difference}",
                    case["case"]
                );
            }
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_as_if_it_had_never_stopped() {
    let golden = golden("optimizers.json");
    for case in golden["optimizers"].as_array().unwrap() {
        let (mut whole, mut first) = (optimizer(case), optimizer(case));
        let (mut expected, mut parameters) = (tensors(&golden, 0), tensors(&golden, 0));
        for update in 1..=4 {
            whole.update(&mut expected, &tensors(&golden, update), 0.01).unwrap();
        }
        for update in 1..=2 {
            first.update(&mut parameters, &tensors(&golden, update), 0.01).unwrap();
        }
        let mut second = optimizer(case);
        second.restore(first.step_count(), &parameters, first.stored()).unwrap();
        for update in 3..=4 {
            second.update(&mut parameters, &tensors(&golden, update), 0.01).unwrap();
        }
        for (name, parameter) in &parameters {
            assert_eq!(values(parameter), values(&expected[name]), "{}, {name}", case["case"]);
        }
    }
}

#[test]
fn the_state_of_another_optimizer_is_refused_and_changes_nothing() {
    let golden = golden("optimizers.json");
    let mut parameters = tensors(&golden, 0);
    let build = |name| OptimizerSettings::named(name).unwrap().build(DecayScope::Everything);
    let mut lion = build("lion");
    lion.update(&mut parameters, &tensors(&golden, 1), 0.01).unwrap();
    let mut adam = build("adam");
    let error = adam.restore(1, &parameters, lion.stored()).unwrap_err();
    assert!(matches!(error, RestoreError::Missing { .. }), "{error}");
    assert_eq!(adam.step_count(), 0);
    let mut sgd = build("sgd");
    let error = sgd.restore(1, &parameters, lion.stored()).unwrap_err();
    assert!(matches!(error, RestoreError::OtherNames { .. }), "{error}");
}

#[rstest]
#[case("adamw")]
#[case("sgd")]
#[case("lion")]
#[case("muon")]
#[case("adafactor")]
fn weight_decay_of_matrices_leaves_vectors_alone(#[case] name: &str) {
    let golden = golden("optimizers.json");
    let after = |weight_decay: f32, scope: DecayScope| {
        let mut settings = OptimizerSettings::named(name).unwrap();
        settings.set_weight_decay(weight_decay);
        let mut parameters = tensors(&golden, 0);
        let mut optimizer = settings.build(scope);
        optimizer.update(&mut parameters, &tensors(&golden, 1), 0.01).unwrap();
        parameters
    };
    let (without, with) = (after(0.0, DecayScope::Matrices), after(0.5, DecayScope::Matrices));
    assert_eq!(values(&without["vector"]), values(&with["vector"]));
    assert_ne!(values(&without["wide"]), values(&with["wide"]));
    let everywhere = after(0.5, DecayScope::Everything);
    assert_ne!(values(&without["vector"]), values(&everywhere["vector"]));
}

#[test]
fn a_schedule_with_an_initial_rate_is_mlx_lm_s() {
    for case in golden("optimizers.json")["schedules"].as_array().unwrap() {
        let schedule = &case["lr_schedule"];
        let arguments: Vec<f64> = schedule["arguments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| argument.as_f64().unwrap())
            .collect();
        let decay = match schedule["name"].as_str().unwrap() {
            "cosine_decay" => Decay::Cosine {
                steps: arguments[1] as usize,
                end: arguments.get(2).copied().unwrap_or(0.0),
            },
            "linear_schedule" => Decay::Linear {
                steps: arguments[2] as usize,
                end: arguments[1],
            },
            "exponential_decay" => Decay::Exponential { factor: arguments[1] },
            "step_decay" => Decay::Steps {
                factor: arguments[1],
                every: arguments[2] as usize,
            },
            other => panic!("{other}"),
        };
        let ours = Schedule {
            peak: arguments[0],
            warmup_steps: schedule["warmup"].as_u64().unwrap_or(0) as usize,
            warmup_init: Some(schedule["warmup_init"].as_f64().unwrap_or(0.0)),
            decay,
        };
        for (step, expected) in (1..).zip(case["learning_rates"].as_array().unwrap()) {
            let (found, expected) = (ours.learning_rate(step), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() <= LEARNING_RATES,
                "{schedule}, update {step}: {found} {expected}"
            );
        }
    }
}
