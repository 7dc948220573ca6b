//! Checks of training code for the tests of other programs, on any model of mlx-rs.
//!
//! Each check takes what every mlx-rs model has, [`ModuleParameters`](mlx_rs::module::ModuleParameters), and returns a
//! [`CheckFailure`] that names the tensors; its `assert_` form panics with the same words. The example crate in
//! `examples/checks-on-your-model` shows them on a model of its own.
//!
//! | check | what it finds |
//! | --- | --- |
//! | [`every_weight_is_seen`] | weights that the model computes with and does not list, as blocks in a `Vec` without `#[param]`; parameters that it lists and does not use |
//! | [`file_is_covered`] | tensors of a weight file that the model has no parameter for, and the reverse |
//! | [`only_changed`] | a base that was not frozen, adapters that did not move |
//! | [`gradients_reach`] | parameters without a gradient, with one of zeros, or with one that is not finite |
//! | [`adapter_is_identity`] | fresh adapters that change the output |
//! | [`survives_saving`] | tensors that are lost or changed between saving and loading |
//! | [`finite`] | NaN and infinity in parameters |
//!
//! Start with [`every_weight_is_seen`]: the other checks see no more than the model lists.
//!
//! A pattern is the path of a parameter, in which `*` stands for any text: `layers.*.lora_b`.

mod changes;
mod failure;
mod file;
mod finite;
mod gradients;
mod graph;
mod identity;
mod pattern;
mod saving;

pub use crate::param_diff::{ParameterDifference, SnapshotDifference, compare};
pub use crate::param_snapshot::ParameterSnapshot;
pub use changes::{assert_only_changed, only_changed};
pub use failure::CheckFailure;
pub use file::{assert_file_is_covered, file_is_covered};
pub use finite::{assert_finite, finite};
pub use gradients::{assert_gradients_reach, gradients_reach};
pub use graph::{assert_every_weight_is_seen, every_weight_is_seen};
pub use identity::{adapter_is_identity, assert_adapter_is_identity};
pub use saving::{assert_survives_saving, survives_saving};
