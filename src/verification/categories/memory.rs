use mlx_rs::Array;
use mlx_rs::memory::clear_cache;

use super::super::check::{Check, CheckResult, failed, passed, skipped};
use super::super::session::Session;
use crate::adapter::{LoraSettings, attach};
use crate::data::{Batch, Example};
use crate::device::MemoryBudget;
use crate::memory::{MlxMemory, process_memory, system_memory};
use crate::rules::wording::bytes;
use crate::train::{AdamW, AdamWSettings, Schedule, TrainSettings, Trainer, UpdateOutcome, loss_and_gradients};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("the machine tells its memory", machine),
    Check::once("arrays are counted and given back", counted_and_given_back),
    Check::once("the peak is the most that was held", peak),
    Check::once("training steps hold no more from one to the next", steps),
];

/// Values of the array that is counted.
const VALUES: i32 = 1 << 20;
/// Its size in bytes.
const BYTES: u64 = 4 * VALUES as u64;
/// Steps before the memory is looked at, in which the optimizer's state and MLX's buffers come to be.
const FIRST_STEPS: usize = 3;
/// Steps that must add nothing.
const MORE_STEPS: usize = 6;
/// Growth that says nothing: the last step's arrays may lie in buffers of another size.
const GROWTH: u64 = 1 << 16;

fn machine(_: &Session<'_>) -> CheckResult {
    let Some(memory) = system_memory() else {
        return skipped("the system does not tell how much memory it has");
    };
    if memory.available == 0 || memory.available > memory.total {
        return Err(failed(
            "the machine's memory makes no sense",
            format!("{} available of {}", bytes(memory.available), bytes(memory.total)),
            "some that is available, and no more than there is",
            "the system's counters are wrong; memory budgets are too",
        ));
    }
    let budget = MemoryBudget::new(memory, None, 0, MemoryBudget::DEFAULT_RESERVE);
    let own = process_memory()
        .resident
        .map_or_else(String::new, |own| format!("; this program holds {}", bytes(own)));
    passed(format!(
        "{} of {} available, training may use {}{own}",
        bytes(memory.available),
        bytes(memory.total),
        bytes(budget.figures.limit),
    ))
}

/// An array that takes memory of its own.
fn array() -> mlx_rs::error::Result<Array> {
    let array = Array::full::<f32>(&[VALUES], Array::from_f32(1.5))?.multiply(Array::from_f32(3.0))?;
    array.eval()?;
    Ok(array)
}

fn counted_and_given_back(_: &Session<'_>) -> CheckResult {
    clear_cache()?;
    let before = MlxMemory::read()?.active;
    let array = array()?;
    let held = MlxMemory::read()?.active.saturating_sub(before);
    drop(array);
    mlx_sys::backend::synchronize();
    let left = MlxMemory::read()?.active.saturating_sub(before);
    if held < BYTES || left >= BYTES {
        return Err(failed(
            "MLX does not count an array's memory as it comes and goes",
            format!("{} while it was there, {} after it", bytes(held), bytes(left)),
            format!("{} or more, then nothing of it", bytes(BYTES)),
            "memory that is not given back ends a long run; report it with this output",
        ));
    }
    passed(format!("{} held, {} left", bytes(held), bytes(left)))
}

fn peak(_: &Session<'_>) -> CheckResult {
    MlxMemory::read_and_reset_peak()?;
    let before = MlxMemory::read()?.active;
    drop(array()?);
    mlx_sys::backend::synchronize();
    let after = MlxMemory::read()?;
    if after.peak < before + BYTES {
        return Err(failed(
            "MLX's peak misses an array that came and went",
            bytes(after.peak),
            format!("{} or more", bytes(before + BYTES)),
            "peaks in reports are too low here",
        ));
    }
    passed(bytes(after.peak))
}

fn steps(session: &Session<'_>) -> CheckResult {
    let mut model = session.embedded()?.model.clone();
    attach(&mut model, &LoraSettings::default(), 1)?;
    let batch = Batch::new(&[Example::of_tokens((3..35).collect())], &[0]);
    let mut optimizer = AdamW::new(AdamWSettings::default());
    let mut trainer = Trainer {
        optimizer: &mut optimizer,
        loss: &loss_and_gradients,
        lanes: session.backend().lanes(),
        others: None,
        settings: TrainSettings {
            steps: FIRST_STEPS + MORE_STEPS,
            schedule: Schedule::constant(1e-5),
            clip_norm: None,
        },
        interrupt: session.interrupt,
    };
    let mut held = 0;
    for step in 1..=FIRST_STEPS + MORE_STEPS {
        if let UpdateOutcome::NotFinite { .. } = trainer.update(&mut model, std::slice::from_ref(&batch), step)? {
            return Err(failed(
                "a training step on the carried model is not finite",
                format!("step {step}"),
                "finite numbers",
                "the arithmetic and gradient checks say more",
            ));
        }
        if step == FIRST_STEPS {
            held = MlxMemory::read()?.active;
        }
    }
    let after = MlxMemory::read()?.active;
    if after > held + GROWTH {
        return Err(failed(
            "training steps leave memory behind",
            format!(
                "{} after step {FIRST_STEPS}, {} {MORE_STEPS} steps later",
                bytes(held),
                bytes(after)
            ),
            "the same",
            "a long run ends for lack of memory; report it with this output",
        ));
    }
    passed(format!("{} after {MORE_STEPS} more steps", bytes(after)))
}
