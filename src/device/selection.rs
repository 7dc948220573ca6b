use std::sync::Once;

use mlx_rs::Device;
use mlx_rs::transforms::compile::disable_compile;
use thiserror::Error;

use super::backend::{Backend, BackendKind, PrecisionChoice};
use super::start_up;
use crate::evidence::RunEnvironment;
use crate::model::Precision;

/// The backend of a run, and how it came to be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The backend.
    pub backend: Backend,
    /// Why, one sentence each without a final period.
    pub reasons: Vec<String>,
}

/// The backend that was asked for cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the backend `{}` cannot be used\n  found: {found}\n  hint: leave out `--backend` to let the program choose", kind.name())]
pub struct BackendError {
    /// What was asked for.
    pub kind: BackendKind,
    /// What is wrong with it.
    pub found: String,
}

impl Selection {
    /// Finds the backend that was asked for, or the best that works, and makes it MLX's default: Metal or CUDA, then MLX
    /// on the CPU, then PyTorch. Each is tried out before it is chosen.
    ///
    /// # Errors
    /// The one that was asked for does not work here.
    pub fn of(asked: Option<BackendKind>) -> Result<Self, BackendError> {
        choose(asked, &mut try_out)
    }

    /// [`Self::of`] for whoever tells the faults of devices: beside what is chosen, every device that is there and computes
    /// wrongly. Such a one is chosen all the same where it was asked for, or is the last: PyTorch never is.
    ///
    /// # Errors
    /// There is no device of the kind that was asked for.
    pub fn with_faults(asked: Option<BackendKind>) -> Result<(Self, Vec<BackendError>), BackendError> {
        let mut faults = Vec::new();
        for kind in [BackendKind::Metal, BackendKind::Cuda, BackendKind::Cpu] {
            match try_out(kind) {
                Err(found) if found != NO_DEVICE => faults.push(BackendError { kind, found }),
                _ => {}
            }
        }
        let despite_fault = |kind, reason: &str| Self {
            backend: Backend::new(kind),
            reasons: vec![reason.to_owned()],
        };
        // Whatever is tried out last is MLX's default, whether it computes well or not.
        let selection = match Self::of(asked) {
            Ok(selection) if selection.backend.kind == BackendKind::Torch => {
                despite_fault(BackendKind::Cpu, "CPU: the last device, though it computes wrongly")
            }
            Err(error) if faults.contains(&error) => {
                despite_fault(error.kind, "chosen with --backend, though it computes wrongly")
            }
            chosen => chosen?,
        };
        Ok((selection, faults))
    }

    /// The machine as evidence, with the reasons for what was chosen; see [`Backend::environment`].
    pub fn environment(
        &self,
        precision: Precision,
        choice: PrecisionChoice,
        packed_checkpoint: bool,
    ) -> RunEnvironment {
        let mut environment = self.backend.environment(precision, choice, packed_checkpoint);
        environment.reasons.splice(0..0, self.reasons.iter().cloned());
        environment
    }
}

/// Why a backend is not used.
type Unusable = String;

fn choose(
    asked: Option<BackendKind>,
    try_out: &mut dyn FnMut(BackendKind) -> Result<(), Unusable>,
) -> Result<Selection, BackendError> {
    if let Some(kind) = asked {
        try_out(kind).map_err(|found| BackendError { kind, found })?;
        let mut reasons = vec![format!("{}: chosen with --backend", kind.title())];
        reasons.extend((kind == BackendKind::Torch).then(|| BESIDE_TORCH.to_owned()));
        return Ok(Selection {
            backend: Backend::new(kind),
            reasons,
        });
    }
    let mut reasons = Vec::new();
    for kind in [BackendKind::Metal, BackendKind::Cuda, BackendKind::Cpu] {
        match try_out(kind) {
            Ok(()) => {
                reasons.push(match kind {
                    BackendKind::Metal => "Metal: MLX finds an Apple GPU".to_owned(),
                    BackendKind::Cuda => "CUDA: MLX finds an NVIDIA GPU".to_owned(),
                    _ if reasons.is_empty() => "CPU: MLX finds no Metal or CUDA device".to_owned(),
                    _ => "CPU: the next best that works".to_owned(),
                });
                return Ok(Selection {
                    backend: Backend::new(kind),
                    reasons,
                });
            }
            Err(found) if found == NO_DEVICE => {}
            Err(found) => reasons.push(format!("{}: not used, as {found}", kind.title())),
        }
    }
    reasons.extend(["PyTorch: MLX works on no device here", BESIDE_TORCH].map(str::to_owned));
    Ok(Selection {
        backend: Backend::new(BackendKind::Torch),
        reasons,
    })
}

/// What is said of MLX where PyTorch computes.
const BESIDE_TORCH: &str = "MLX on the CPU reads the files and compares tensors";

/// What is said of a device that is not there.
const NO_DEVICE: &str = "MLX finds no such device";

/// Makes a backend the default and computes something with it.
fn try_out(kind: BackendKind) -> Result<(), Unusable> {
    static CPU: Once = Once::new();
    let is_there = match kind {
        BackendKind::Metal => mlx_sys::backend::metal_is_available(),
        BackendKind::Cuda => mlx_sys::backend::cuda_is_available(),
        BackendKind::Cpu | BackendKind::Torch => true,
    };
    if !is_there {
        return Err(NO_DEVICE.to_owned());
    }
    if kind == BackendKind::Cpu || kind == BackendKind::Torch {
        CPU.call_once(|| {
            mlx_sys::backend::evaluate_breadth_first();
            // MLX would run a C++ compiler while the program works, and ignore Ctrl-C meanwhile.
            disable_compile();
        });
        Device::set_default(&Device::cpu());
    } else {
        Device::set_default(&Device::gpu());
    }
    match kind {
        // It is tried out when its worker starts.
        BackendKind::Torch => Ok(()),
        _ => start_up::check().map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{BackendError, BackendKind, NO_DEVICE, Selection, choose};
    use rstest::rstest;

    /// What is chosen where the backends of this list fail in this way and all others work.
    fn chosen(asked: Option<BackendKind>, failing: &[(BackendKind, &str)]) -> Result<Selection, BackendError> {
        choose(asked, &mut |kind| match failing.iter().find(|(one, _)| *one == kind) {
            Some((_, found)) => Err((*found).to_owned()),
            None => Ok(()),
        })
    }

    #[rstest]
    #[case::an_apple_gpu(&[], BackendKind::Metal, &["Metal: MLX finds an Apple GPU"])]
    #[case::an_nvidia_gpu(&[(BackendKind::Metal, NO_DEVICE)], BackendKind::Cuda, &["CUDA: MLX finds an NVIDIA GPU"])]
    #[case::no_gpu(
        &[(BackendKind::Metal, NO_DEVICE), (BackendKind::Cuda, NO_DEVICE)],
        BackendKind::Cpu,
        &["CPU: MLX finds no Metal or CUDA device"]
    )]
    #[case::a_gpu_that_miscounts(
        &[(BackendKind::Metal, NO_DEVICE), (BackendKind::Cuda, "its product is 1.0e0 off")],
        BackendKind::Cpu,
        &["CUDA: not used, as its product is 1.0e0 off", "CPU: the next best that works"]
    )]
    #[case::nothing_of_mlx(
        &[(BackendKind::Metal, NO_DEVICE), (BackendKind::Cuda, NO_DEVICE), (BackendKind::Cpu, "its softmax is NaN off")],
        BackendKind::Torch,
        &["CPU: not used, as its softmax is NaN off", "PyTorch: MLX works on no device here", "MLX on the CPU reads the files and compares tensors"]
    )]
    fn the_best_that_works_is_chosen_and_says_why(
        #[case] failing: &[(BackendKind, &str)],
        #[case] expected: BackendKind,
        #[case] reasons: &[&str],
    ) {
        let selection = chosen(None, failing).unwrap();
        assert_eq!(selection.backend.kind, expected);
        assert_eq!(selection.reasons, reasons);
    }

    #[test]
    fn what_was_asked_for_is_never_replaced() {
        let error = chosen(Some(BackendKind::Cuda), &[(BackendKind::Cuda, NO_DEVICE)]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the backend `cuda` cannot be used\n  found: MLX finds no such device")
        );
        let cpu = chosen(Some(BackendKind::Cpu), &[]).unwrap();
        assert_eq!(
            (cpu.backend.kind, cpu.reasons),
            (BackendKind::Cpu, vec!["CPU: chosen with --backend".to_owned()])
        );
    }
}
