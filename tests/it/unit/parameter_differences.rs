//! What is said to have changed between two moments of a model.

use mlx_diagnose::param_diff::{ParameterDifference, SnapshotDifference, compare, same_buffer};
use mlx_diagnose::param_snapshot::ParameterSnapshot;
use mlx_rs::module::{ModuleParameters, Param, Parameter};
use mlx_rs::nn::Linear;
use mlx_rs::{Array, Dtype};
use rstest::rstest;

fn layer(weight: Array, bias: Option<Array>) -> Linear {
    Linear {
        weight: Param::new(weight),
        bias: Param::new(bias),
    }
}

fn array(values: &[f32], dtype: Dtype) -> Array {
    Array::from_slice(values, &[values.len() as i32])
        .as_dtype(dtype)
        .unwrap()
}

fn differences(before: &Linear, after: &Linear) -> SnapshotDifference {
    compare(&ParameterSnapshot::capture(before), &ParameterSnapshot::capture(after)).unwrap()
}

/// Of two weights without a bias.
fn difference(before: Array, after: Array) -> ParameterDifference {
    let mut found = differences(&layer(before, None), &layer(after, None));
    assert_eq!((found.vanished.len(), found.appeared.len()), (0, 0));
    assert_eq!(found.compared.len(), 1);
    found.compared.remove(0)
}

/// Types of 32 bits and of 16, and the first both by our own operation and by MLX's, which is what a GPU computes with.
#[rstest]
fn a_change_is_counted_and_measured(
    #[values(Dtype::Float32, Dtype::Float16, Dtype::Bfloat16)] dtype: Dtype,
    #[values(true, false)] own_operations: bool,
) {
    let serving = mlx_cpu_kernels::set_serving(own_operations);
    // The sides of two right-angled triangles: norms 5 and 13, and 12 between them.
    let found = difference(array(&[3.0, 4.0, 0.0], dtype), array(&[3.0, 4.0, 12.0], dtype));
    mlx_cpu_kernels::set_serving(serving);
    assert_eq!(
        found,
        ParameterDifference {
            name: "weight".to_owned(),
            values: 3,
            changed_values: 1,
            norm_before: 5.0,
            norm_after: 13.0,
            norm_difference: 12.0,
        }
    );
}

#[rstest]
fn values_are_compared_bit_for_bit(
    #[values(Dtype::Float32, Dtype::Float16, Dtype::Bfloat16)] dtype: Dtype,
    #[values(true, false)] own_operations: bool,
) {
    let serving = mlx_cpu_kernels::set_serving(own_operations);
    let zero = difference(array(&[0.0, 1.0], dtype), array(&[-0.0, 1.0], dtype));
    let undefined = difference(array(&[f32::NAN, 1.0], dtype), array(&[f32::NAN, 1.0], dtype));
    mlx_cpu_kernels::set_serving(serving);
    assert_eq!(zero.changed_values, 1, "minus zero is another value than zero");
    assert_eq!(undefined.changed_values, 0, "the same NaN is the same value");
    assert_eq!(undefined.norm_difference, 0.0);
    assert!(undefined.norm_before.is_nan() && undefined.norm_after.is_nan());
}

#[rstest]
fn a_parameter_that_nobody_touched_is_the_same_and_still_measured(
    #[values(Dtype::Float32, Dtype::Float16)] dtype: Dtype,
) {
    let weight = array(&[3.0, -4.0], dtype);
    let found = difference(weight.clone(), weight);
    assert_eq!((found.values, found.changed_values), (2, 0));
    assert_eq!(
        (found.norm_before, found.norm_after, found.norm_difference),
        (5.0, 5.0, 0.0)
    );
}

#[rstest]
#[case::another_shape(array(&[1.0, 2.0, 3.0], Dtype::Float32))]
#[case::another_type(array(&[1.0, 2.0], Dtype::Float16))]
fn a_parameter_of_another_shape_or_type_is_gone_and_another_is_there(#[case] other: Array) {
    let bias = array(&[0.5], Dtype::Float32);
    let before = layer(array(&[1.0, 2.0], Dtype::Float32), Some(bias.clone()));
    let found = differences(&before, &layer(other, Some(bias)));
    let compared: Vec<&str> = found.compared.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(compared, ["bias"]);
    assert_eq!(found.vanished, ["weight"]);
    assert_eq!(found.appeared, ["weight"]);
}

#[test]
fn a_parameter_that_only_one_side_has_is_named_on_that_side() {
    let weight = array(&[1.0, 2.0], Dtype::Float32);
    let with_bias = layer(weight.clone(), Some(array(&[0.5], Dtype::Float32)));
    let without = layer(weight, None);
    let found = differences(&with_bias, &without);
    assert_eq!((found.vanished, found.appeared), (vec!["bias".to_owned()], Vec::new()));
    let found = differences(&without, &with_bias);
    assert_eq!((found.vanished, found.appeared), (Vec::new(), vec!["bias".to_owned()]));
}

#[test]
fn a_snapshot_counts_values_and_keeps_them_when_the_model_goes_on() {
    let mut model = layer(array(&[1.0, 2.0], Dtype::Float32), Some(array(&[0.5], Dtype::Float32)));
    let before = ParameterSnapshot::capture(&model);
    assert_eq!(before.values(), 3);
    model.bias = Param::new(Some(array(&[0.75], Dtype::Float32)));
    let kept = before.into_parameters();
    let names: Vec<&str> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["bias", "weight"]);
    assert_eq!(kept["bias"].try_as_slice::<f32>().unwrap(), [0.5]);
}

#[test]
fn what_is_frozen_is_no_trainable_parameter() {
    let mut model = layer(array(&[1.0, 2.0], Dtype::Float32), Some(array(&[0.5], Dtype::Float32)));
    model.weight.freeze(true);
    let trainable = ParameterSnapshot::capture_trainable(&model);
    let names: Vec<&str> = trainable.parameters().keys().map(String::as_str).collect();
    assert_eq!(names, ["bias"]);
    assert_eq!(
        ParameterSnapshot::capture(&model).parameters().len(),
        model.num_parameters()
    );
}

#[test]
fn only_the_very_same_array_is_the_same_buffer() {
    let weight = array(&[1.0, 2.0, 3.0, 4.0], Dtype::Float32);
    assert!(same_buffer(&weight, &weight.clone()).unwrap());
    let equal = array(&[1.0, 2.0, 3.0, 4.0], Dtype::Float32);
    assert!(!same_buffer(&weight, &equal).unwrap(), "equal values elsewhere");
    // Both look at the same memory.
    assert!(!same_buffer(&weight, &weight.reshape(&[2, 2]).unwrap()).unwrap());
    assert!(!same_buffer(&weight, &weight.view_dtype(Dtype::Int32).unwrap()).unwrap());
}
