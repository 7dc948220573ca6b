//! How long it takes to get ready for the first step.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::ops::zeros_like;
use mlx_rs::transforms::eval;

use super::{BenchError, Measured, Measurement, Unit, Workbench};
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{AdamW, AdamWSettings, Optimizer};

/// Measures the attaching of adapters and the making of the state of [`AdamW`].
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    const ATTACH: &str = "attach-adapters";
    const PREPARE: &str = "adamw-state";
    let mut measured = Measured::default();
    let rank = bench.options.settings.sizes.rank;
    let seconds = bench.seconds_of_short(|| bench.adapted().map(drop))?;
    measured.add(
        ATTACH,
        Measurement::new(
            ATTACH,
            Unit::Seconds,
            seconds,
            format!("fresh adapters of rank {rank} on every linear layer of the blocks"),
        ),
    );
    let adapted = bench.adapted()?;
    let parameters = ParameterSnapshot::capture_trainable(&adapted).into_parameters();
    let gradients: BTreeMap<String, Array> = parameters
        .iter()
        .map(|(name, array)| Ok((name.clone(), zeros_like(array)?)))
        .collect::<Result<_, BenchError>>()?;
    eval(gradients.values())?;
    let seconds = bench.seconds_of_short(|| {
        let mut optimizer = AdamW::new(AdamWSettings::default());
        let mut updated = parameters.clone();
        optimizer.update(&mut updated, &gradients, 0.0)?;
        eval(optimizer.state())?;
        Ok(())
    })?;
    let note = format!(
        "AdamW's two moments of {} trained tensors, from nothing",
        parameters.len()
    );
    measured.add(PREPARE, Measurement::new(PREPARE, Unit::Seconds, seconds, note));
    Ok(measured)
}
