use mlx_rs::Dtype;

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
    /// PyTorch computes, wherever it can best, and MLX on the CPU holds what it gives.
    Torch,
}

impl BackendKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Metal, Self::Cuda, Self::Torch];

    /// `cpu`, `metal`, `cuda` or `torch`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Torch => "torch",
        }
    }

    /// The kind that [`Self::name`] calls so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Metal => "Metal",
            Self::Cuda => "CUDA",
            Self::Torch => "PyTorch",
        }
    }
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
    /// A backend of this machine, which is not tried out.
    pub(super) fn new(kind: BackendKind) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { kind, cores }
    }

    /// The best backend that works, as MLX's default; see [`Selection::of`](super::Selection::of).
    pub fn select() -> Self {
        super::Selection::of(None).map_or_else(|_| Self::new(BackendKind::Cpu), |selection| selection.backend)
    }

    /// `cpu`, `metal`, `cuda` or `torch`.
    pub fn name(self) -> &'static str {
        self.kind.name()
    }

    fn is_gpu(self) -> bool {
        matches!(self.kind, BackendKind::Metal | BackendKind::Cuda)
    }

    /// The form in which `configuration`'s weights are held here.
    pub fn precision(self, configuration: &ModelConfiguration, choice: PrecisionChoice) -> Precision {
        self.precision_of(configuration.dtype, choice)
    }

    /// The form in which weights are held here whose files name this element type, or none.
    pub fn precision_of(self, stored: Option<WeightType>, choice: PrecisionChoice) -> Precision {
        let of_checkpoint = stored.map_or(Dtype::Float32, WeightType::dtype);
        let on_gpu = self.is_gpu();
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
            BackendKind::Cpu | BackendKind::Torch if self.cores > 1 => Lanes::on_cpu(CPU_LANES),
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
                BackendKind::Torch => format!("PyTorch, {} cores", self.cores),
            },
            dtype: dtype_name(precision.dtype).to_owned(),
            packed: packed_checkpoint && precision.keep_packed,
            reasons: self.reasons(choice, packed_checkpoint),
        }
    }

    fn reasons(self, choice: PrecisionChoice, packed_checkpoint: bool) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.push(match (choice.dtype, self.is_gpu()) {
            (Some(_), _) => "dtype: chosen with --dtype".to_owned(),
            (None, false) if self.kind == BackendKind::Torch => "float32: 16 bits lose small updates".to_owned(),
            (None, false) => "float32: MLX's CPU products in 16 bits are over ten times slower".to_owned(),
            (None, true) => "dtype: the checkpoint's own".to_owned(),
        });
        if !packed_checkpoint {
            return reasons;
        }
        reasons.push(match (choice.keep_packed, self.is_gpu()) {
            (true, _) => "packed weights: kept packed with --keep-packed".to_owned(),
            (false, false) => {
                "packed weights: unpacked at load, since MLX's CPU products on packed weights are over ten times slower"
                    .to_owned()
            }
            (false, true) => "packed weights: kept packed on a GPU".to_owned(),
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
