//! Where a mixture of experts sends its tokens.

use approx::assert_relative_eq;
use mlx_diagnose::model::CausalModel;
use mlx_diagnose::probes::routing::{BlockRouting, measure};
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::{concatenate, zeros};
use rstest::rstest;

use crate::integration::architecture_parity::{load, numbers};
use crate::support::golden::ids;

/// Experts of the tiny model, and how many of them each token takes.
const EXPERTS: usize = 4;
const CHOSEN: usize = 2;
const GATE: &str = ".block_sparse_moe.gate";

fn tokens() -> Vec<u32> {
    ids(&numbers("mixtral")["input_ids"])
}

/// The model with gates whose first two experts prefer opposite directions, while the others never prefer anything.
fn torn_between_two() -> CausalModel {
    let mut model = load("mixtral").model;
    for (path, gate) in model.linears_mut() {
        if path.ends_with(GATE) {
            let width = gate.weight.dim(1);
            let ones = Array::ones::<f32>(&[1, width]).unwrap();
            let none = zeros::<f32>(&[EXPERTS as i32 - 2, width]).unwrap();
            gate.weight = Param::new(concatenate(&[&ones, &ones.negative().unwrap(), &none], 0).unwrap());
        }
    }
    model
}

fn load_of(block: &BlockRouting) -> usize {
    block.load.iter().sum()
}

#[test]
fn every_token_goes_to_as_many_experts_as_the_model_takes() {
    let tokens = tokens();
    let model = load("mixtral").model;
    let blocks = measure(&model, std::slice::from_ref(&tokens), EXPERTS).unwrap();
    assert_eq!(
        blocks.iter().map(|block| block.block).collect::<Vec<_>>(),
        (0..model.model.layers.len()).collect::<Vec<_>>()
    );
    for block in &blocks {
        assert_eq!(load_of(block), CHOSEN * tokens.len(), "{block:?}");
        assert!(block.load.iter().all(|load| *load <= tokens.len()), "{block:?}");
        // One row takes its own experts only.
        assert_eq!(block.experts_of_a_step, CHOSEN as f64);
    }
}

#[test]
fn a_gate_that_is_torn_between_two_experts_sends_each_token_to_one_of_them() {
    let tokens = tokens();
    for block in measure(&torn_between_two(), std::slice::from_ref(&tokens), EXPERTS).unwrap() {
        assert_eq!(block.load[0] + block.load[1], tokens.len(), "{block:?}");
    }
}

#[test]
fn rows_that_are_alike_take_the_experts_of_one() {
    let rows = vec![tokens(); 3];
    let model = load("mixtral").model;
    let alone = measure(&model, &rows[..1], EXPERTS).unwrap();
    for (block, alone) in measure(&model, &rows, EXPERTS).unwrap().iter().zip(&alone) {
        assert_eq!(block.experts_of_a_step, CHOSEN as f64);
        assert_eq!(block.load, alone.load.iter().map(|load| 3 * load).collect::<Vec<_>>());
    }
}

#[test]
fn rows_that_differ_take_more_experts_together() {
    let tokens = tokens();
    let reversed = tokens.iter().rev().copied().collect();
    let blocks = measure(&load("mixtral").model, &[tokens, reversed], EXPERTS).unwrap();
    for block in &blocks {
        assert!(block.experts_of_a_step <= (2 * CHOSEN).min(EXPERTS) as f64, "{block:?}");
    }
    let mean = blocks.iter().map(|block| block.experts_of_a_step).sum::<f64>() / blocks.len() as f64;
    assert!(mean > CHOSEN as f64, "{blocks:?}");
}

#[rstest]
#[case::llama("llama")]
#[case::qwen3("qwen3")]
fn a_model_without_experts_sends_nothing_anywhere(#[case] name: &str) {
    let tokens = ids(&numbers(name)["input_ids"]);
    assert_eq!(measure(&load(name).model, &[tokens], EXPERTS).unwrap(), []);
}

#[test]
fn rows_of_different_lengths_are_refused() {
    let model = load("mixtral").model;
    for rows in [vec![], vec![vec![]], vec![vec![1, 2], vec![1]]] {
        let error = measure(&model, &rows, EXPERTS).unwrap_err().to_string();
        assert!(error.contains("equally many tokens"), "{error}");
    }
}

#[test]
fn an_even_load_is_even_by_every_measure_and_one_for_one_expert_by_none() {
    let block = |load: &[usize]| BlockRouting {
        block: 0,
        load: load.to_vec(),
        experts_of_a_step: 1.0,
    };
    let even = block(&[5, 5, 5, 5]);
    assert_relative_eq!(even.entropy(), 4_f64.ln(), epsilon = 1e-12);
    assert_relative_eq!(even.largest_by_mean(), 1.0);
    assert_relative_eq!(even.variation(), 0.0);
    let one = block(&[20, 0, 0, 0]);
    assert_relative_eq!(one.entropy(), 0.0);
    assert_relative_eq!(one.largest_by_mean(), 4.0);
    // Of 20, 0, 0, 0: mean 5, squares 225 + 3 * 25, so the root of 75 by 5.
    assert_relative_eq!(one.variation(), 75_f64.sqrt() / 5.0, epsilon = 1e-12);
}
