use serde::{Deserialize, Serialize};

/// Version of the format of [`MachineEvidence`]; raised whenever a field is added, renamed or changes meaning.
pub const MACHINE_SCHEMA_VERSION: u32 = 1;

/// What was looked for on this machine: what it is, or why it was not found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detected<T> {
    /// It is there.
    Found(T),
    /// It is not there, or cannot be read.
    Absent {
        /// One sentence without a final period.
        reason: String,
    },
}

impl<T> Detected<T> {
    /// It is not there.
    pub fn absent(reason: impl Into<String>) -> Self {
        Self::Absent { reason: reason.into() }
    }

    /// What was found.
    pub fn found(&self) -> Option<&T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Absent { .. } => None,
        }
    }
}

/// The machine, and what this program would do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineEvidence {
    /// [`MACHINE_SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// Version of this program.
    pub tool_version: String,
    /// Version of the MLX library that is linked.
    pub mlx_version: String,
    /// Operating system and processor, for example `linux x86_64`.
    pub platform: String,
    /// The operating system with its version.
    pub system: Detected<String>,
    /// The processor.
    pub processor: ProcessorEvidence,
    /// The Apple chip.
    pub apple_chip: Detected<AppleChipEvidence>,
    /// What MLX says of the Apple GPU.
    pub metal: Detected<MetalEvidence>,
    /// NVIDIA's devices, in their order.
    pub cuda: Detected<Vec<CudaEvidence>>,
    /// Memory of the machine.
    pub memory: Detected<MachineMemory>,
    /// What MLX holds of it in this process.
    pub mlx_memory: Detected<MlxMemoryEvidence>,
    /// How much of it training may take.
    pub budget: Detected<BudgetEvidence>,
    /// What would be chosen, and why.
    pub choice: ChoiceEvidence,
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessorEvidence {
    /// As it calls itself, for example `Apple M2 Max`.
    pub name: Detected<String>,
    /// Cores that exist; hyper-threads count once.
    pub physical_cores: Detected<usize>,
    /// Cores that this process may use, as threads count them.
    pub usable_cores: usize,
}

/// Apple's chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppleChipEvidence {
    /// As it calls itself, for example `Apple M2 Max`.
    pub name: String,
    /// 1 for M1, and so on.
    pub generation: u32,
    /// Size within the generation.
    pub variant: ChipVariant,
    /// Whether a virtual machine shows it.
    pub is_virtual: bool,
    /// Fast cores of the processor.
    pub performance_cores: Detected<u32>,
    /// Thrifty cores of the processor.
    pub efficiency_cores: Detected<u32>,
    /// Cores of the GPU.
    pub gpu_cores: Detected<u32>,
}

/// Sizes of Apple's chips within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChipVariant {
    /// The plain one.
    Base,
    /// `Pro`.
    Pro,
    /// `Max`.
    Max,
    /// `Ultra`: two of `Max`.
    Ultra,
}

impl ChipVariant {
    /// Every variant.
    pub const ALL: [Self; 4] = [Self::Base, Self::Pro, Self::Max, Self::Ultra];

    /// What follows the generation in the chip's name; nothing for [`Self::Base`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "",
            Self::Pro => "Pro",
            Self::Max => "Max",
            Self::Ultra => "Ultra",
        }
    }
}

/// What MLX says of an Apple GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetalEvidence {
    /// Its name.
    pub name: Detected<String>,
    /// Apple's name of its architecture, for example `applegpu_g14s`.
    pub architecture: Detected<String>,
    /// The most bytes that Metal recommends all programs together to hold.
    pub recommended_working_set: Detected<u64>,
    /// The largest single array in bytes.
    pub largest_buffer: Detected<u64>,
}

/// One NVIDIA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaEvidence {
    /// Its name, for example `NVIDIA H100 80GB HBM3`.
    pub name: Detected<String>,
    /// Compute capability, for example `9.0`.
    pub compute_capability: Detected<String>,
    /// Bytes of its memory.
    pub total_memory: Detected<u64>,
    /// Bytes of it that are free.
    pub free_memory: Detected<u64>,
    /// Version of the driver.
    pub driver: Detected<String>,
    /// Who says so.
    pub source: CudaSource,
}

/// Who knows of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CudaSource {
    /// MLX, which can compute on it.
    Mlx,
    /// NVIDIA's tool; the MLX that is linked cannot compute on it.
    NvidiaSmi,
}

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineMemory {
    /// Installed.
    pub total: u64,
    /// Free for programs without swapping.
    pub available: u64,
    /// Whether processor and GPU share it.
    pub is_unified: bool,
}

/// What MLX holds in this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlxMemoryEvidence {
    /// In arrays.
    pub active: u64,
    /// The most in arrays so far.
    pub peak: u64,
    /// Kept for later arrays.
    pub cache: u64,
}

/// How much memory training may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetEvidence {
    /// The most that MLX may hold in all.
    pub limit: u64,
    /// What decides the limit.
    pub bound: BudgetBound,
    /// Kept free for the system and other programs.
    pub reserve: u64,
    /// What was asked to be kept free; more than [`Self::reserve`] on a machine that is too small for it.
    pub asked_reserve: u64,
}

/// What decides how much memory training may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetBound {
    /// What is kept free of the installed memory.
    Reserve,
    /// What the GPU recommends as the most that programs hold on it.
    WorkingSet,
    /// What other programs have left at this moment.
    Available,
}

/// What a run without `--backend` and `--dtype` would use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceEvidence {
    /// `cpu`, `metal`, `cuda` or `torch`.
    pub backend: String,
    /// `float32`, or `checkpoint` for the element type that the model's files have.
    pub dtype: String,
    /// Whether packed weights stay packed.
    pub keeps_packed: bool,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
}
