//! Where to compute and in which element type, as the command line names them.

use clap::ValueEnum;

use crate::device::BackendKind;
use crate::model::WeightType;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArgument {
    /// IEEE single precision
    Float32,
    /// The upper half of a single
    Bfloat16,
    /// IEEE half precision
    Float16,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendArgument {
    /// MLX on an Apple GPU
    Metal,
    /// MLX on an NVIDIA GPU
    Cuda,
    /// MLX on the processor
    Cpu,
    /// PyTorch on MPS, CUDA or the processor, by the python on the path or the one that `MLX_DIAGNOSE_PYTHON` names
    Torch,
}

impl From<BackendArgument> for BackendKind {
    fn from(argument: BackendArgument) -> Self {
        match argument {
            BackendArgument::Metal => Self::Metal,
            BackendArgument::Cuda => Self::Cuda,
            BackendArgument::Cpu => Self::Cpu,
            BackendArgument::Torch => Self::Torch,
        }
    }
}

impl From<DtypeArgument> for mlx_rs::Dtype {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::Float32 => Self::Float32,
            DtypeArgument::Bfloat16 => Self::Bfloat16,
            DtypeArgument::Float16 => Self::Float16,
        }
    }
}

impl From<DtypeArgument> for WeightType {
    fn from(argument: DtypeArgument) -> Self {
        match argument {
            DtypeArgument::Float32 => Self::Float32,
            DtypeArgument::Bfloat16 => Self::Bfloat16,
            DtypeArgument::Float16 => Self::Float16,
        }
    }
}
