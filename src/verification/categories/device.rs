use mlx_rs::ops::matmul;
use mlx_rs::{Array, Device, Stream, with_stream};

use super::super::check::{Check, CheckResult, Deviations, Failure, NotPassed, failed, passed, skipped};
use super::super::golden_files::GOLDEN_MODELS;
use super::super::session::Session;
use super::super::tolerance::LOGITS;
use crate::device::BackendKind;
use crate::double_precision::{doubles, values};
use crate::readback::vector;
use crate::train::{Lanes, loss_and_gradients};

pub(in super::super) const CHECKS: &[Check] = &[
    Check::once("the library is the one that the program was made for", release),
    Check::once("every device that is found computes", devices),
    Check::once("streams compute the same bits", streams),
    Check::once("matrix products are this program's", products),
    Check::once("the GPU agrees with the processor", gpu),
];

/// Side of the matrices that only have to be computed at all.
const SIDE: i32 = 64;

fn release(_: &Session<'_>) -> CheckResult {
    mlx_sys::backend::check_version()?;
    match mlx_sys::backend::version() {
        Some(version) => passed(format!("MLX {version}")),
        None => Err(failed(
            "the library does not tell its release",
            "no version",
            "the release that the program was made for",
            "install the program again with its libraries",
        )),
    }
}

fn devices(session: &Session<'_>) -> CheckResult {
    if session.faults.is_empty() {
        return passed(session.selection.reasons.join("; "));
    }
    let found = session.faults.iter();
    Err(NotPassed::Failed(Failure {
        headline: "a device computes wrongly".to_owned(),
        found: found
            .map(|fault| format!("{}: {}", fault.kind.name(), fault.found))
            .collect(),
        expected: Some("a matrix product and a softmax near those in double precision".to_owned()),
        hint: Some("update the system and its drivers; if that does not help, the device is broken".to_owned()),
    }))
}

/// Two lanes are two threads of MLX, which must not disturb each other.
fn streams(session: &Session<'_>) -> CheckResult {
    let lanes = session.backend().lanes();
    if lanes.count() < 2 {
        return skipped("one stream is used here");
    }
    let golden = session.golden(&GOLDEN_MODELS[0])?;
    let batch = golden.batch();
    let alone = vector::<f32>(&loss_and_gradients(&golden.model, &batch, &Lanes::single())?.loss)?;
    let parts: Vec<usize> = (0..lanes.count()).collect();
    let losses = lanes.each(&parts, |_| {
        Ok(loss_and_gradients(&golden.model, &batch, &Lanes::single())?.loss)
    })?;
    for loss in losses {
        let loss = vector::<f32>(&loss)?;
        if loss != alone {
            return Err(failed(
                "a stream computes something else than another",
                format!("losses {loss:?} and {alone:?}"),
                "the same bits",
                "a fault of memory or of the processor; run again, and test the memory",
            ));
        }
    }
    passed(format!("{} streams", parts.len()))
}

/// The library that is published for Linux brings a slow reference BLAS, which the program replaces as it starts.
#[cfg(target_os = "linux")]
fn products(session: &Session<'_>) -> CheckResult {
    if session.backend().kind != BackendKind::Cpu {
        return skipped("the GPU has products of its own");
    }
    let before = mlx_sys::blas::calls();
    let matrix = Array::from_slice(&values((SIDE * SIDE) as usize, 1), &[SIDE, SIDE]);
    matmul(&matrix, &matrix)?.eval()?;
    if mlx_sys::blas::calls() > before {
        return passed("called by MLX");
    }
    Err(failed(
        "MLX computes matrix products with another library",
        "a product that this program did not see",
        "the program's own products, which are many times as fast as the reference BLAS",
        "build with the scripts of the repository: the program has to export `cblas_sgemm`",
    ))
}

#[cfg(not(target_os = "linux"))]
fn products(_: &Session<'_>) -> CheckResult {
    skipped("the system's own library computes matrix products here")
}

fn gpu(session: &Session<'_>) -> CheckResult {
    if session.backend().kind == BackendKind::Cpu {
        return skipped("no GPU is used");
    }
    let golden = session.golden(&GOLDEN_MODELS[0])?;
    let found = vector(&golden.model.logits(&golden.row())?)?;
    let processor = Stream::new_with_device(&Device::cpu());
    let expected: Vec<f32> = with_stream(&processor, || vector(&golden.model.logits(&golden.row())?))?;
    let expected = doubles(&expected);
    let mut deviations = Deviations::within(LOGITS, session);
    deviations.compare("logits of llama", &found, &expected);
    deviations.judge("results of the GPU", "update the system and its drivers")
}
