use std::sync::Once;

use mlx_rs::transforms::compile::disable_compile;
use mlx_rs::{Device, Dtype};

use crate::evidence::RunEnvironment;
use crate::model::{ModelConfiguration, Precision, WeightType};
use crate::train::Lanes;

/// Lanes on a CPU with more than one core. Two halve the work around the matrix products; more would make each part of a
/// batch too small for products to run at full speed.
const CPU_LANES: usize = 2;

/// Where MLX computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// The processor.
    Cpu,
    /// An Apple GPU.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
}

/// The backend of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Where MLX computes.
    pub kind: BackendKind,
    /// Cores of the processor.
    pub cores: usize,
}

/// What the user asked of precision; `None` leaves the choice to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrecisionChoice {
    /// Element type to compute in.
    pub dtype: Option<Dtype>,
    /// Keep packed weights packed.
    pub keep_packed: bool,
}

impl Backend {
    /// Finds the best backend and makes it MLX's default.
    pub fn select() -> Self {
        static DEFAULT: Once = Once::new();
        let kind = if mlx_sys::backend::metal_is_available() {
            BackendKind::Metal
        } else if mlx_sys::backend::cuda_is_available() {
            BackendKind::Cuda
        } else {
            BackendKind::Cpu
        };
        DEFAULT.call_once(|| {
            if kind == BackendKind::Cpu {
                mlx_sys::backend::evaluate_breadth_first();
                // MLX would run a C++ compiler while the program works, and ignore Ctrl-C meanwhile.
                disable_compile();
            }
            Device::set_default(&match kind {
                BackendKind::Cpu => Device::cpu(),
                BackendKind::Metal | BackendKind::Cuda => Device::gpu(),
            });
        });
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { kind, cores }
    }

    /// `cpu`, `metal` or `cuda`.
    pub fn name(self) -> &'static str {
        match self.kind {
            BackendKind::Cpu => "cpu",
            BackendKind::Metal => "metal",
            BackendKind::Cuda => "cuda",
        }
    }

    /// The form in which `configuration`'s weights are held here.
    pub fn precision(self, configuration: &ModelConfiguration, choice: PrecisionChoice) -> Precision {
        self.precision_of(configuration.dtype, choice)
    }

    /// The form in which weights are held here whose files name this element type, or none.
    pub fn precision_of(self, stored: Option<WeightType>, choice: PrecisionChoice) -> Precision {
        let of_checkpoint = stored.map_or(Dtype::Float32, WeightType::dtype);
        let on_gpu = self.kind != BackendKind::Cpu;
        Precision {
            dtype: choice
                .dtype
                .unwrap_or(if on_gpu { of_checkpoint } else { Dtype::Float32 }),
            keep_packed: choice.keep_packed || on_gpu,
        }
    }

    /// Streams that parts of a batch are computed on.
    pub fn lanes(self) -> Lanes {
        match self.kind {
            BackendKind::Cpu if self.cores > 1 => Lanes::on_cpu(CPU_LANES),
            _ => Lanes::single(),
        }
    }

    /// The machine as evidence, with the reasons for what was chosen; `packed_checkpoint` says whether the files hold
    /// packed weights.
    pub fn environment(self, precision: Precision, choice: PrecisionChoice, packed_checkpoint: bool) -> RunEnvironment {
        RunEnvironment {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            mlx_version: mlx_sys::backend::version().unwrap_or_else(|| "unknown".to_owned()),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            backend: self.name().to_owned(),
            device: match self.kind {
                BackendKind::Cpu => format!("CPU, {} cores", self.cores),
                BackendKind::Metal => "Apple GPU".to_owned(),
                BackendKind::Cuda => "NVIDIA GPU".to_owned(),
            },
            dtype: dtype_name(precision.dtype).to_owned(),
            packed: packed_checkpoint && precision.keep_packed,
            reasons: self.reasons(choice, packed_checkpoint),
        }
    }

    fn reasons(self, choice: PrecisionChoice, packed_checkpoint: bool) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.push(match self.kind {
            BackendKind::Cpu => "CPU: MLX finds no Metal or CUDA device".to_owned(),
            BackendKind::Metal => "Metal: MLX finds an Apple GPU".to_owned(),
            BackendKind::Cuda => "CUDA: MLX finds an NVIDIA GPU".to_owned(),
        });
        reasons.push(match (choice.dtype, self.kind) {
            (Some(_), _) => "dtype: chosen with --dtype".to_owned(),
            (None, BackendKind::Cpu) => "float32: MLX's CPU products in 16 bits are over ten times slower".to_owned(),
            (None, _) => "dtype: the checkpoint's own".to_owned(),
        });
        if !packed_checkpoint {
            return reasons;
        }
        reasons.push(match (choice.keep_packed, self.kind) {
            (true, _) => "packed weights: kept packed with --keep-packed".to_owned(),
            (false, BackendKind::Cpu) => {
                "packed weights: unpacked at load, since MLX's CPU products on packed weights are over ten times slower"
                    .to_owned()
            }
            (false, _) => "packed weights: kept packed on a GPU".to_owned(),
        });
        reasons
    }
}

/// The name of an element type as reports print it.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bfloat16 => "bfloat16",
        Dtype::Float16 => "float16",
        _ => "float32",
    }
}

/// The element type that [`dtype_name`] calls so.
pub fn dtype_named(name: &str) -> Option<Dtype> {
    [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16]
        .into_iter()
        .find(|&dtype| dtype_name(dtype) == name)
}
