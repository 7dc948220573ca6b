use serde::{Deserialize, Serialize};

use super::categories;
use super::check::Check;

/// What checks are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// The library, the devices that it finds, and its streams.
    Device,
    /// What memory there is, and that it is given back.
    Memory,
    /// Single operations of MLX.
    Arithmetic,
    /// What has no rounding: sorting, conversions, random numbers.
    Bits,
    /// The operations that this program brings for CPUs.
    Kernels,
    /// Models, optimizers and the sampler against other programs.
    Goldens,
    /// Gradients against finite differences.
    Gradients,
    /// What is written and read again.
    Checkpoints,
    /// Answers in a batch against answers alone.
    Engine,
    /// A fine-tune from its beginning to its end.
    Lora,
}

impl Category {
    /// Every category, what others build on first.
    pub const ALL: [Self; 10] = [
        Self::Device,
        Self::Memory,
        Self::Arithmetic,
        Self::Bits,
        Self::Kernels,
        Self::Goldens,
        Self::Gradients,
        Self::Checkpoints,
        Self::Engine,
        Self::Lora,
    ];

    /// What it is called on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Memory => "memory",
            Self::Arithmetic => "arithmetic",
            Self::Bits => "bits",
            Self::Kernels => "kernels",
            Self::Goldens => "goldens",
            Self::Gradients => "gradients",
            Self::Checkpoints => "checkpoints",
            Self::Engine => "engine",
            Self::Lora => "lora",
        }
    }

    /// What is held against what, in one line.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Device => "the library, its devices and its streams",
            Self::Memory => "what memory there is, and that it is given back",
            Self::Arithmetic => "operations of MLX against their definitions in double precision",
            Self::Bits => "sorting, picking, conversions and random numbers, which have to be exact",
            Self::Kernels => "this program's own operations for CPUs against the same definitions",
            Self::Goldens => "models, optimizers and sampler against transformers, mlx-lm and MLX's own",
            Self::Gradients => "gradients against finite differences of the loss",
            Self::Checkpoints => "what is written and read again, bit for bit",
            Self::Engine => "answers in a batch and from a cache against answers alone",
            Self::Lora => "a fine-tune of the model that the program carries: attach, learn, reload, fuse",
        }
    }

    /// The category of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.name() == name)
    }

    /// Its checks, in the order in which they are made.
    pub(super) fn checks(self) -> &'static [Check] {
        match self {
            Self::Device => categories::device::CHECKS,
            Self::Memory => categories::memory::CHECKS,
            Self::Arithmetic => categories::arithmetic::CHECKS,
            Self::Bits => categories::bits::CHECKS,
            Self::Kernels => categories::kernels::CHECKS,
            Self::Goldens => categories::goldens::CHECKS,
            Self::Gradients => categories::gradients::CHECKS,
            Self::Checkpoints => categories::checkpoints::CHECKS,
            Self::Engine => categories::engine::CHECKS,
            Self::Lora => categories::lora::CHECKS,
        }
    }
}
