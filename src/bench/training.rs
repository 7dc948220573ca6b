//! The training step and its parts.

use std::time::Instant;

use mlx_rs::transforms::eval;

use super::{BenchError, Measured, Measurement, Samples, Unit, Workbench, product_time};
use crate::data::Batch;
use crate::model::CausalModel;
use crate::param_snapshot::ParameterSnapshot;
use crate::train::{
    AdamW, AdamWSettings, Lanes, Optimizer, Schedule, TrainSettings, Trainer, UpdateOutcome, loss_and_gradients,
    mean_loss,
};

/// A learning rate that keeps every step finite, mlx-lm's default.
const LEARNING_RATE: f64 = 1e-5;

/// Measures the parts one after the other, then whole steps.
pub fn measure(bench: &Workbench<'_>) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    let (model, batch, lanes) = (bench.adapted()?, bench.batch(), bench.backend.lanes());
    parts(bench, &mut measured, &model, &batch, &lanes)?;
    steps(bench, &mut measured, model, &batch)?;
    Ok(measured)
}

fn parts(
    bench: &Workbench<'_>,
    measured: &mut Measured,
    model: &CausalModel,
    batch: &Batch,
    lanes: &Lanes,
) -> Result<(), BenchError> {
    let rows = described(batch);
    let forward = bench.seconds_of(|| Ok(mean_loss(model, batch, lanes).map(drop)?))?;
    let both = bench.seconds_of(|| {
        let _cores = lanes.share_cores(batch);
        let pass = loss_and_gradients(model, batch, lanes)?;
        Ok(eval(pass.gradients.values().chain([&pass.loss]))?)
    })?;
    let backward = beyond(&both, &forward);
    let gradients = {
        let _cores = lanes.share_cores(batch);
        let pass = loss_and_gradients(model, batch, lanes)?;
        eval(pass.gradients.values())?;
        pass.gradients
    };
    let mut optimizer = AdamW::new(AdamWSettings::default());
    let mut parameters = ParameterSnapshot::capture_trainable(model).into_parameters();
    let update = bench.seconds_of_short(|| {
        optimizer.update(&mut parameters, &gradients, LEARNING_RATE)?;
        Ok(eval(parameters.values().chain(optimizer.state()))?)
    })?;
    for (name, seconds, note) in [
        ("forward", Some(forward), format!("the mean loss of {rows}")),
        (
            "backward",
            backward,
            "loss and gradients together, less the fastest forward pass".to_owned(),
        ),
        (
            "update",
            Some(update),
            format!("AdamW on {} trained tensors", gradients.len()),
        ),
    ] {
        match seconds {
            Some(seconds) => measured.add(name, Measurement::new(name, Unit::Seconds, seconds, note)),
            None => measured.lack(
                name,
                "the machine did so much else that a part took longer than the whole",
            ),
        }
    }
    Ok(())
}

/// What each of `whole` took beyond the fastest of `part`, which are measured at different times, so that what else the machine
/// does makes either longer; `None` where that is no time.
fn beyond(whole: &Samples, part: &Samples) -> Option<Samples> {
    let fastest = part.values().iter().copied().reduce(f64::min)?;
    let beyond: Vec<f64> = whole.values().iter().map(|whole| whole - fastest).collect();
    beyond
        .iter()
        .all(|&seconds| seconds > 0.0)
        .then(|| Samples::new(beyond))
}

fn steps(bench: &Workbench<'_>, measured: &mut Measured, model: CausalModel, batch: &Batch) -> Result<(), BenchError> {
    let mut steps = Steps::new(bench, model, batch);
    let settings = &bench.options.settings;
    let (mut seconds, mut shares, mut rates) = (Samples::default(), Samples::default(), Samples::default());
    for repeat in 0..settings.warm_ups + bench.repeats {
        bench.go_on()?;
        product_time::begin();
        let took = steps.step()?;
        let products = product_time::end();
        if repeat < settings.warm_ups {
            continue;
        }
        seconds.push(took);
        if let Some(products) = products.filter(|products| products.seconds > 0.0) {
            shares.push(products.seconds / took);
            rates.push(products.operations / products.seconds / 1e9);
        }
    }
    let tokens = batch.supervised_tokens() as f64;
    let rows = described(batch);
    let note = format!("forward, backward and AdamW's update with {rows}");
    measured.add(
        "tokens-per-second",
        Measurement::rate("tokens-per-second", Unit::TokensPerSecond, &seconds, tokens, rows),
    );
    measured.add("step", Measurement::new("step", Unit::Seconds, seconds, note));
    for (name, unit, samples, note) in [
        (
            "share-in-products",
            Unit::Share,
            shares,
            "of the cores' time during the step, what passed inside matrix products",
        ),
        (
            "speed-of-products",
            Unit::GigaflopsPerSecond,
            rates,
            "operations of the step's matrix products by that time",
        ),
    ] {
        if samples.is_empty() {
            measured.lack(name, product_time::WHY_NOT);
        } else {
            measured.add(name, Measurement::new(name, unit, samples, note));
        }
    }
    Ok(())
}

fn described(batch: &Batch) -> String {
    format!("{} rows of {} predicted tokens", batch.rows.len(), batch.columns - 1)
}

/// Training steps on the same rows.
pub(super) struct Steps<'bench> {
    bench: &'bench Workbench<'bench>,
    model: CausalModel,
    batch: Batch,
    optimizer: AdamW,
    made: usize,
}

impl<'bench> Steps<'bench> {
    pub(super) fn new(bench: &'bench Workbench<'_>, model: CausalModel, batch: &Batch) -> Self {
        Self {
            bench,
            model,
            batch: batch.clone(),
            optimizer: AdamW::new(AdamWSettings::default()),
            made: 0,
        }
    }

    /// Makes one more step and returns the seconds that it took.
    pub(super) fn step(&mut self) -> Result<f64, BenchError> {
        let mut trainer = Trainer {
            optimizer: &mut self.optimizer,
            loss: &loss_and_gradients,
            lanes: self.bench.backend.lanes(),
            others: None,
            settings: TrainSettings {
                steps: 1,
                schedule: Schedule::constant(LEARNING_RATE),
                clip_norm: None,
            },
            interrupt: self.bench.interrupt,
        };
        self.made += 1;
        let started = Instant::now();
        match trainer.update(&mut self.model, std::slice::from_ref(&self.batch), self.made)? {
            UpdateOutcome::Updated(_) => Ok(started.elapsed().as_secs_f64()),
            UpdateOutcome::NotFinite { .. } => Err(BenchError::Unexpected(format!(
                "the numbers of training step {} are not finite",
                self.made
            ))),
        }
    }

    /// The model as it is now, and the optimizer.
    pub(super) fn into_parts(self) -> (CausalModel, AdamW) {
        (self.model, self.optimizer)
    }
}

#[cfg(test)]
mod tests {
    use super::{Samples, beyond};

    #[test]
    fn a_part_that_was_disturbed_makes_no_rest_negative() {
        let whole = Samples::new(vec![3.0, 3.5, 4.0]);
        let rest = beyond(&whole, &Samples::new(vec![1.0, 126.0, 1.25])).unwrap();
        assert_eq!(rest.values(), [2.0, 2.5, 3.0]);
        assert!(beyond(&whole, &Samples::new(vec![3.0])).is_none());
        assert!(beyond(&whole, &Samples::default()).is_none());
    }
}
