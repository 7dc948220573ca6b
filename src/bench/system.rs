//! What the figures were measured on.

use serde::{Deserialize, Serialize};
use sysinfo::System;

use crate::device::{MemoryBudget, Selection, describe_machine};
use crate::evidence::{Detected, MachineMemory};
use crate::thresholds::BUSY_LOAD;

/// The machine and the program that was measured: what has to be the same for two results to be comparable, and what
/// explains why they differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemDescription {
    /// Version of this program.
    pub tool_version: String,
    /// How this program was compiled.
    pub profile: Profile,
    /// Version of the MLX library that is linked.
    pub mlx_version: String,
    /// Where MLX computes: `cpu`, `metal` or `cuda`.
    pub backend: String,
    /// Operating system and processor, for example `linux x86_64`.
    pub platform: String,
    /// The operating system with its version.
    pub system: Detected<String>,
    /// The processor, or the Apple chip, as it calls itself.
    pub processor: Detected<String>,
    /// The GPU that MLX finds, as it calls itself.
    pub gpu: Detected<String>,
    /// Cores that exist; hyper-threads count once.
    pub physical_cores: Detected<usize>,
    /// Cores that this process may use, as threads count them.
    pub usable_cores: usize,
    /// Threads of one large matrix product on the CPU; absent where the system's own library decides.
    pub product_threads: Detected<usize>,
    /// Memory of the machine.
    pub memory: Detected<MachineMemory>,
    /// Processes that wanted to run when the measurements began, over 1, 5 and 15 minutes.
    pub load_average: Detected<[f64; 3]>,
}

/// How a program was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// With debug assertions, and hardly optimised.
    Debug,
    /// For speed.
    Release,
}

impl Profile {
    /// The one of this program.
    pub fn of_this_program() -> Self {
        if cfg!(debug_assertions) {
            Self::Debug
        } else {
            Self::Release
        }
    }

    /// `debug` or `release`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

impl SystemDescription {
    /// Looks at this machine, on which `selection` computes.
    pub fn read(selection: &Selection) -> Self {
        let machine = describe_machine(selection, MemoryBudget::DEFAULT_RESERVE);
        let gpu = match (&machine.metal, &machine.cuda) {
            (Detected::Found(metal), _) => metal.name.clone(),
            (_, Detected::Found(devices)) => devices.first().map_or_else(
                || Detected::absent("there is no NVIDIA device"),
                |device| device.name.clone(),
            ),
            (Detected::Absent { reason }, _) => Detected::absent(reason),
        };
        Self {
            tool_version: machine.tool_version,
            profile: Profile::of_this_program(),
            mlx_version: machine.mlx_version,
            backend: selection.backend.name().to_owned(),
            platform: machine.platform,
            system: machine.system,
            processor: machine.processor.name,
            gpu,
            physical_cores: machine.processor.physical_cores,
            usable_cores: machine.processor.usable_cores,
            product_threads: product_threads(),
            memory: machine.memory,
            load_average: load_average(),
        }
    }

    /// What has to be known before the figures are believed, one sentence each without a final period.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.profile == Profile::Debug {
            warnings.push(
                "this program was compiled without optimisation; build it with `cargo build --release` to measure it"
                    .to_owned(),
            );
        }
        if let Detected::Found([last_minute, ..]) = self.load_average
            && last_minute > BUSY_LOAD * self.usable_cores as f64
        {
            warnings.push(format!(
                "the machine was busy when the measurements began: {last_minute:.1} processes wanted to run on {} cores",
                self.usable_cores
            ));
        }
        warnings
    }

    /// The first thing that makes figures of `earlier` and of this system incomparable, as `earlier`'s and this one's;
    /// `None` where they are comparable.
    pub fn difference_from(&self, earlier: &Self) -> Option<Difference> {
        let optional = |found: &Detected<String>| found.found().cloned().unwrap_or_else(|| "unknown".to_owned());
        let memory = |system: &Self| {
            system
                .memory
                .found()
                .map_or_else(|| "unknown".to_owned(), |memory| format!("{} bytes", memory.total))
        };
        let pairs = [
            ("platform", earlier.platform.clone(), self.platform.clone()),
            ("processor", optional(&earlier.processor), optional(&self.processor)),
            (
                "usable cores",
                earlier.usable_cores.to_string(),
                self.usable_cores.to_string(),
            ),
            ("memory", memory(earlier), memory(self)),
            ("GPU", optional(&earlier.gpu), optional(&self.gpu)),
            ("backend", earlier.backend.clone(), self.backend.clone()),
            (
                "profile",
                earlier.profile.name().to_owned(),
                self.profile.name().to_owned(),
            ),
        ];
        pairs
            .into_iter()
            .find(|(_, then, now)| then != now)
            .map(|(what, then, now)| Difference { what, then, now })
    }
}

/// What differs between two systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub what: &'static str,
    /// What it was in the earlier result.
    pub then: String,
    /// What it is now.
    pub now: String,
}

/// Only Linux has products of this program.
#[cfg(target_os = "linux")]
fn product_threads() -> Detected<usize> {
    Detected::Found(mlx_sys::blas::threads())
}

#[cfg(not(target_os = "linux"))]
fn product_threads() -> Detected<usize> {
    Detected::absent("the system's own library decides")
}

fn load_average() -> Detected<[f64; 3]> {
    System::load_average().map_or_else(
        |_| Detected::absent("the system does not tell"),
        |load| Detected::Found([load.one, load.five, load.fifteen]),
    )
}
